package wirejson

import (
	"bytes"
	"encoding/json"
	"errors"
	"math"
	"reflect"
	"testing"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	businessv1 "github.com/nearside-dev/nearside/gen/nearside/business/v1"
	controlv1 "github.com/nearside-dev/nearside/gen/nearside/control/v1"
	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
)

// same has a message be written both ways, and fails where this package writes something else than package protojson.
func same(t *testing.T, m proto.Message, wire []byte) (written bool) {
	t.Helper()
	o, err := Of(m.ProtoReflect().Descriptor())
	if err != nil {
		t.Fatal(err)
	}
	got, ok := o.Append([]byte("before"), wire)
	if !ok {
		if string(got) != "before" {
			t.Errorf("%q is left", got)
		}
		return false
	}
	if err := proto.Unmarshal(wire, m); err != nil {
		// A field that is not looked at may be wrong: what was is not.
		return true
	}
	want, err := protojson.MarshalOptions{EmitDefaultValues: true}.Marshal(m)
	if err != nil {
		t.Fatalf("package protojson: %v", err)
	}
	var a, b any
	if json.Unmarshal(got[len("before"):], &a) != nil || json.Unmarshal(want, &b) != nil || !reflect.DeepEqual(a, b) {
		t.Errorf("got %s, want %s", got[len("before"):], want)
	}
	return true
}

func messages() []proto.Message {
	return []proto.Message{
		&businessv1.User{},
		&businessv1.User{
			Id: "usr_1", Email: "a@b.c", Name: "Ann \"\\\n\t\x01ü\u2028<>&", CreateTime: &timestamppb.Timestamp{Seconds: 1_700_000_000, Nanos: 120_000_000},
			UpdateTime: &timestamppb.Timestamp{Seconds: -62135596800, Nanos: 1}, Version: math.MaxUint64,
		},
		&businessv1.User{CreateTime: &timestamppb.Timestamp{}, UpdateTime: &timestamppb.Timestamp{Seconds: 253402300799, Nanos: 999_999_000}},
		&businessv1.Order{Items: []*businessv1.OrderItem{{Sku: "a", Quantity: 3, PriceCents: -1}, {}}, TotalCents: math.MinInt64},
		&businessv1.ListUsersResponse{Users: []*businessv1.User{{Id: "1"}, {Id: "2"}}, NextPageToken: "x"},
		&datav1.BatchGetRequest{}, &datav1.Row{},
		&controlv1.ServiceEndpoint{Region: "r", Url: "u"},
	}
}

func TestAsProtojson(t *testing.T) {
	written := 0
	for _, m := range messages() {
		if _, err := Of(m.ProtoReflect().Descriptor()); errors.Is(err, ErrUnsupported) {
			continue
		}
		wire, err := proto.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		if !same(t, m.ProtoReflect().New().Interface(), wire) {
			t.Errorf("%T was not written", m)
		}
		written++
	}
	if written < 6 {
		t.Errorf("%d kinds of messages are written", written)
	}
	for _, m := range []proto.Message{&structpb.Struct{}, &datav1.Value{}, &datav1.Statement{}, &descriptorpb.FieldDescriptorProto{}} {
		if _, err := Of(m.ProtoReflect().Descriptor()); !errors.Is(err, ErrUnsupported) {
			t.Errorf("%T: %v", m, err)
		}
	}
}

// TestStepsAside: what this package does not write.
func TestStepsAside(t *testing.T) {
	user := func(fields ...[]byte) []byte { return bytes.Join(fields, nil) }
	text := func(n protowire.Number, s string) []byte {
		return protowire.AppendString(protowire.AppendTag(nil, n, protowire.BytesType), s)
	}
	number := func(n protowire.Number, v uint64) []byte {
		return protowire.AppendVarint(protowire.AppendTag(nil, n, protowire.VarintType), v)
	}
	for name, wire := range map[string][]byte{
		"a message twice": user(text(4, "\x08\x01"), text(4, "\x10\x01")), "no UTF-8": text(1, "\xff"), "another type": number(1, 1),
		"cut off": {0x0a, 5, 'a'}, "a time too late": text(4, string(number(1, 1<<60))), "a time with too much": text(4, string(number(2, 1e9))),
		"no tag": {0},
	} {
		if same(t, &businessv1.User{}, wire) {
			t.Errorf("%s: written", name)
		}
	}
	for name, wire := range map[string][]byte{
		"a text twice": user(text(1, "a"), text(1, "b")), "unknown fields": user(text(99, "x"), text(1, "a"), number(98, 1)), "nothing": nil,
	} {
		if !same(t, &businessv1.User{}, wire) {
			t.Errorf("%s: not written", name)
		}
	}
}

// TestFields has parts of a message, under other names.
func TestFields(t *testing.T) {
	d := (&businessv1.Order{}).ProtoReflect().Descriptor().Fields()
	items := (&businessv1.OrderItem{}).ProtoReflect().Descriptor().Fields()
	item := &Object{}
	if err := item.Fill([]Field{{Key: "n", Descriptor: items.ByName("quantity"), Int: true, Absent: "0"}, {Key: "m", Descriptor: items.ByName("quantity"), Text: true, Absent: `"0"`}}); err != nil {
		t.Fatal(err)
	}
	o := &Object{}
	err := o.Fill([]Field{
		{Key: `a"b`, Constant: `"Order"`}, {Key: "items", Descriptor: d.ByName("items"), Object: item, Absent: "[]"},
		{Key: "at", Descriptor: d.ByName("create_time"), Absent: "null"}, {Key: "left", Descriptor: d.ByName("id")},
	})
	if err != nil {
		t.Fatal(err)
	}
	for want, m := range map[string]*businessv1.Order{
		`{"a\"b":"Order","items":[],"at":null}`:                                           {UserId: "x"},
		`{"a\"b":"Order","items":[{"n":3,"m":"3"},{"n":0,"m":"0"}],"at":null,"left":"1"}`: {Id: "1", Items: []*businessv1.OrderItem{{Quantity: 3}, {}}},
	} {
		wire, err := proto.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		if got, ok := o.Append(nil, wire); !ok || string(got) != want {
			t.Errorf("%v %s, want %s", ok, got, want)
		}
	}
	wire, err := proto.Marshal(&businessv1.Order{Items: []*businessv1.OrderItem{{Quantity: math.MaxUint32}}})
	if err != nil {
		t.Fatal(err)
	}
	if got, ok := o.Append(nil, wire); ok {
		t.Errorf("%s has an Int of 32 bits", got)
	}
}

func FuzzUser(f *testing.F) {
	fuzz(f, func() proto.Message { return &businessv1.ListUsersResponse{} })
}

func FuzzOrder(f *testing.F) { fuzz(f, func() proto.Message { return &businessv1.Order{} }) }

func fuzz(f *testing.F, empty func() proto.Message) {
	f.Helper()
	for _, m := range messages() {
		if wire, err := proto.Marshal(m); err == nil {
			f.Add(wire)
			f.Add(append(bytes.Clone(wire), wire...))
		}
	}
	f.Fuzz(func(t *testing.T, wire []byte) { same(t, empty(), wire) })
}

// FuzzOnly compares with package proto.
func FuzzOnly(f *testing.F) {
	f.Add([]byte("\x0a\x01x"))
	f.Add([]byte("\x0a\x01x\x0a\x01y"))
	f.Fuzz(func(t *testing.T, wire []byte) {
		inner, ok := Only(wire, 1)
		var m businessv1.GetUserResponse
		if err := proto.Unmarshal(wire, &m); err != nil || !ok {
			return
		}
		var user businessv1.User
		if err := proto.Unmarshal(inner, &user); err != nil || !proto.Equal(&user, m.GetUser()) {
			t.Errorf("%x of %x: %v", inner, wire, err)
		}
	})
}

func FuzzAppendString(f *testing.F) {
	f.Add([]byte("a\"\\\n\t\x00\x7f\xffü\u2028"))
	f.Fuzz(func(t *testing.T, b []byte) {
		text := AppendString(nil, b)
		if !bytes.Equal(text, AppendString(nil, string(b))) || !json.Valid(text) {
			t.Fatalf("%q of %q", text, b)
		}
		var back string
		if err := json.Unmarshal(text, &back); err != nil || utf8.Valid(b) && back != string(b) {
			t.Errorf("%q came back as %q", b, back)
		}
	})
}

var sink []byte

func BenchmarkUser(b *testing.B) {
	m := messages()[1]
	wire, err := proto.Marshal(m)
	if err != nil {
		b.Fatal(err)
	}
	o, err := Of(m.ProtoReflect().Descriptor())
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		sink, _ = o.Append(sink[:0], wire)
	}
	_ = protoreflect.Name("")
}
