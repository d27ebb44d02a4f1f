package fieldrules_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	"connectrpc.com/connect"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"

	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/internal/fieldrules"
	"github.com/nearside-dev/nearside/internal/meshtest/echo"
	"github.com/nearside-dev/nearside/internal/meshtest/ruled"
	"github.com/nearside-dev/nearside/internal/rpcerr"
	"github.com/nearside-dev/nearside/internal/servicedesc"
)

// of returns the rules of a file's only service.
func of(t testing.TB, file *descriptorpb.FileDescriptorProto) *fieldrules.Service {
	t.Helper()
	return ofSet(t, ruled.Descriptors(file))
}

func ofSet(t testing.TB, set []byte) *fieldrules.Service {
	t.Helper()
	d, err := servicedesc.Read(set, "")
	if err != nil {
		t.Fatal(err)
	}
	return fieldrules.Of(d)
}

// fields are those that an error names, and its reason.
func fields(err error) (paths []string, reason datav1.ErrorReason) {
	wire, _ := rpcerr.ToConnect(err)
	for _, d := range wire.Details() {
		if v, err := d.Value(); err == nil {
			if b, ok := v.(*errdetails.BadRequest); ok {
				for _, f := range b.GetFieldViolations() {
					paths = append(paths, f.GetField())
				}
			}
		}
	}
	return paths, rpcerr.ReasonOf(err)
}

// broken are orders, and the fields that their errors name.
var broken = []struct{ order, fields string }{
	{`id: "x"`, "id"},
	{`quantity: 101 invoice: "1"`, "quantity"},
	{`quantity: 51`, ""}, // it is the rule of the whole
	{`product: "p"`, "product"},
	{`address { city: "" }`, "address.city"},
	{`lines { sku: "pen-1" } lines { sku: "Pen" }`, "lines[1].sku"},
	{`lines { sku: "pen-1" parts { sku: "ink-2" parts { sku: "" } } }`, "lines[0].parts[0].parts[0].sku"},
	{`labels { key: "a.b\"" value: "long" }`, `labels["a.b\""]`},
	{`tags: "x" tags: "x"`, "tags"},
	{`tags: "x" tags: ""`, "tags[1]"},
	{`id: "x" product: "p"`, "id product"},
}

// with is a good order with other fields.
func with(text string) string {
	good := ruled.Order(ruled.Good)
	other := ruled.Order(text)
	other.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		good.Set(f, v)
		return true
	})
	return prototext.Format(good)
}

func TestCheck(t *testing.T) {
	m := of(t, ruled.File()).Method("Place")
	for _, codec := range []string{"proto", "json"} {
		encode := func(text string) []byte {
			order := ruled.Order(text)
			if codec == "json" {
				b, err := protojson.Marshal(order)
				if err != nil {
					t.Fatal(err)
				}
				return b
			}
			b, err := proto.Marshal(order)
			if err != nil {
				t.Fatal(err)
			}
			return b
		}
		if err := m.Check(t.Context(), codec, encode(ruled.Good)); err != nil {
			t.Errorf("%s: a good one: %v", codec, err)
		}
		for _, test := range broken {
			got, reason := fields(m.Check(t.Context(), codec, encode(with(test.order))))
			if strings.Join(got, " ") != test.fields || len(got) == 0 || reason != datav1.ErrorReason_ERROR_REASON_FIELD_INVALID {
				t.Errorf("%s: %s: %q %v, want %q", codec, test.order, got, reason, test.fields)
			}
		}
		got, _ := fields(m.Check(t.Context(), codec, encode(``)))
		if slices.Sort(got); strings.Join(got, " ") != "address id payment product quantity" {
			t.Errorf("%s: nothing at all: %q", codec, got)
		}
	}
}

// TestWhatCannotBeRead has messages that are none, and those that only the service may know.
func TestWhatCannotBeRead(t *testing.T) {
	m := of(t, ruled.File()).Method("Place")
	good, err := protojson.Marshal(ruled.Order(ruled.Good))
	if err != nil {
		t.Fatal(err)
	}
	add := func(field string) string { return strings.TrimSuffix(string(good), "}") + "," + field + "}" }
	for _, test := range []struct {
		name, codec, message string
		ok                   bool
	}{
		{"good", "json", string(good), true},
		{"an empty body is no JSON", "json", "", false},
		{"another shape", "json", `{"id":{}}`, false},
		{"a list", "json", `[]`, false},
		{"a field twice", "json", add(`"id":"x"`), false},
		{"a field that is not known", "json", add(`"colour":"red"`), true},
		{"an Any of a type that is not known", "json", add(`"extra":{"@type":"type.googleapis.com/acme.Unknown","a":[1,{"b":2}]}`), true},
		{"an Any of a type that is known", "json", add(`"extra":{"@type":"type.googleapis.com/acme.orders.v1.Address","city":"x"}`), true},
		{"such a one of another shape", "json", add(`"extra":{"@type":"type.googleapis.com/acme.orders.v1.Address","city":{}}`), false},
		{"a well-known one", "json", add(`"extra":{"@type":"type.googleapis.com/google.protobuf.StringValue","value":"x"}`), true},
		{"too deep", "json", add(`"lines":` + strings.Repeat(`[{"parts":`, 20_000)), false},
		{"no protobuf", "proto", "\xff", false},
		{"no UTF-8", "proto", "\x0a\x01\xff", false},
		{"another codec", "xml", "", false},
	} {
		err := m.Check(t.Context(), test.codec, []byte(test.message))
		if test.ok && err != nil || !test.ok && connect.CodeOf(err) != connect.CodeInvalidArgument {
			t.Errorf("%s: %v", test.name, err)
		}
	}
}

func TestMethodsWithoutRules(t *testing.T) {
	s := of(t, ruled.File())
	if s.Method("Free") != nil || s.Method("Place") == nil || s.Method("None") != nil {
		t.Errorf("%d methods have rules", s.Methods())
	}
	if s := ofSet(t, echo.Descriptors()); s != nil || s.Method("Echo") != nil || s.Compile() != nil {
		t.Error("the echo service has none")
	}
	ignored := ruled.File()
	ignored.Service[0].Method = ignored.GetService()[0].GetMethod()[:1]
	ignored.Service[0].Method[0].InputType = new(".acme.orders.v1.Wrapping")
	ignored.MessageType = append(ignored.MessageType, message(t, `name: "Wrapping"
		field { name: "order" number: 1 type: TYPE_MESSAGE type_name: ".acme.orders.v1.Order" label: LABEL_OPTIONAL options { [buf.validate.field] { ignore: IGNORE_ALWAYS } } }`))
	if of(t, ignored) != nil {
		t.Error("a message that is ignored counts")
	}
	ignored.MessageType[len(ignored.GetMessageType())-1].Field[0].Options = nil
	if of(t, ignored) == nil {
		t.Error("the rules of a message within do not count")
	}
}

func message(t testing.TB, text string) *descriptorpb.DescriptorProto {
	t.Helper()
	m := new(descriptorpb.DescriptorProto)
	if err := prototext.Unmarshal([]byte(text), m); err != nil {
		t.Fatal(err)
	}
	return m
}

// predefined defines a rule of its own, as an extension of those for texts.
const predefined = `
name: "acme/rules.proto" package: "acme" syntax: "proto2" dependency: "buf/validate/validate.proto"
extension { name: "polite" number: 1161 type: TYPE_BOOL label: LABEL_OPTIONAL extendee: ".buf.validate.StringRules" options {
  [buf.validate.predefined] { cel { id: "polite" message: "says no please" expression: "!rule || this.endsWith('please')" } } } }
message_type { name: "Ask" field { name: "text" number: 1 type: TYPE_STRING label: LABEL_OPTIONAL } }
service { name: "Asking" method { name: "Ask" input_type: ".acme.Ask" output_type: ".acme.Ask" } }`

func TestPredefinedRules(t *testing.T) {
	file := new(descriptorpb.FileDescriptorProto)
	if err := prototext.Unmarshal([]byte(predefined), file); err != nil {
		t.Fatal(err)
	}
	options := new(descriptorpb.FieldOptions)
	// [buf.validate.field] { string { [acme.polite]: true } }: 1159, 14 and 1161 are the numbers.
	if err := proto.Unmarshal([]byte("\xba\x48\x05\x72\x03\xc8\x48\x01"), options); err != nil {
		t.Fatal(err)
	}
	file.MessageType[0].Field[0].Options = options
	s := of(t, file)
	if err := s.Compile(); err != nil {
		t.Fatal(err)
	}
	m := s.Method("Ask")
	if err := m.Check(t.Context(), "json", []byte(`{"text":"now, please"}`)); err != nil {
		t.Error(err)
	}
	err := m.Check(t.Context(), "json", []byte(`{"text":"now"}`))
	if got, _ := fields(err); len(got) != 1 || got[0] != "text" || !strings.Contains(err.Error(), "says no please") {
		t.Errorf("%v", err)
	}
	file.Extension = nil
	if err := of(t, file).Compile(); err == nil || !strings.Contains(err.Error(), "acme.Ask.text") {
		t.Errorf("a rule that nobody knows: %v", err)
	}
}

func TestRulesThatAreNone(t *testing.T) {
	for _, test := range []struct{ name, message, want string }{
		{"no CEL", `field { name: "a" number: 1 type: TYPE_STRING label: LABEL_OPTIONAL options { [buf.validate.field] { cel { id: "bad" expression: "this +" } } } }`, "acme.orders.v1.Bad.a"},
		{"CEL of another type", `field { name: "a" number: 1 type: TYPE_STRING label: LABEL_OPTIONAL options { [buf.validate.field] { cel_expression: "this > 1" } } }`, "acme.orders.v1.Bad.a"},
		{"no truth", `field { name: "a" number: 1 type: TYPE_STRING label: LABEL_OPTIONAL options { [buf.validate.field] { cel { id: "bad" expression: "1" } } } }`, "acme.orders.v1.Bad.a"},
		{"the message's", `options { [buf.validate.message] { cel { id: "bad" expression: "this.none" } } }`, "acme.orders.v1.Bad:"},
		{"rules of another type", `field { name: "a" number: 1 type: TYPE_STRING label: LABEL_OPTIONAL options { [buf.validate.field] { int32 { gt: 1 } } } }`, "acme.orders.v1.Bad.a"},
		{"of the items", `field { name: "a" number: 1 type: TYPE_STRING label: LABEL_REPEATED options { [buf.validate.field] { repeated { items { cel { id: "bad" expression: "x" } } } } } }`, "acme.orders.v1.Bad.a"},
		{"a message within", `field { name: "a" number: 1 type: TYPE_MESSAGE type_name: ".acme.orders.v1.Bad.In" label: LABEL_OPTIONAL }
			nested_type { name: "In" field { name: "b" number: 1 type: TYPE_STRING label: LABEL_OPTIONAL options { [buf.validate.field] { cel { id: "bad" expression: "x" } } } } }`, "acme.orders.v1.Bad.In.b"},
	} {
		file := ruled.File()
		file.MessageType = append(file.MessageType, message(t, `name: "Bad" `+test.message))
		file.Service[0].Method[0].InputType = new(".acme.orders.v1.Bad")
		if err := of(t, file).Compile(); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v", test.name, err)
		} else {
			t.Log(err)
		}
	}
}

// TestLimits has messages that cost too much to be checked refused, and not those that are merely large.
func TestLimits(t *testing.T) {
	file := ruled.File()
	file.MessageType = append(file.MessageType, message(t, `name: "Many"
		field { name: "numbers" number: 1 type: TYPE_INT32 label: LABEL_REPEATED }
		field { name: "others" number: 3 type: TYPE_INT32 label: LABEL_REPEATED }
		field { name: "text" number: 2 type: TYPE_STRING label: LABEL_OPTIONAL options { [buf.validate.field] { string { max_len: 4000000 } } } }
		options { [buf.validate.message] { cel { id: "pairs" expression: "this.numbers.all(a, this.numbers.exists_one(b, a == b))" } } }`))
	file.Service[0].Method[0].InputType = new(".acme.orders.v1.Many")
	m := of(t, file).Method("Place")
	numbers := func(n int) []byte { // from 0, packed: each takes a byte
		b := []byte{10}
		for l := n; ; l >>= 7 {
			if l < 128 {
				b = append(b, byte(l))
				break
			}
			b = append(b, byte(l)|128)
		}
		for i := range n {
			b = append(b, byte(i%128))
		}
		return b
	}
	text := func(n int) []byte {
		m := ruled.Order(`product: "` + strings.Repeat("x", n) + `"`)
		m.Clear(m.Descriptor().Fields().ByName("id"))
		b, err := proto.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		b[0] = 2<<3 | 2 // the number of text
		return b
	}
	tooLarge := func(err error) bool {
		return rpcerr.ReasonOf(err) == datav1.ErrorReason_ERROR_REASON_REQUEST_TOO_LARGE && connect.CodeOf(wire(err)) == connect.CodeResourceExhausted
	}
	if err := m.Check(t.Context(), "proto", numbers(100)); err != nil {
		t.Errorf("a hundred pairs: %v", err)
	}
	if err := m.Check(t.Context(), "proto", numbers(1_000_000)); !tooLarge(err) {
		t.Errorf("a million million pairs: %v", err)
	}
	if err := m.Check(t.Context(), "proto", append(text(3_000_000), numbers(100)...)); err != nil {
		t.Errorf("a long text beside few pairs: %v", err)
	}
	others := numbers(1_000_000)
	others[0] = 3<<3 | 2
	if err := m.Check(t.Context(), "proto", append(others, numbers(100)...)); err != nil {
		t.Errorf("a long list beside few pairs: %v", err)
	}
	if err := m.Check(t.Context(), "proto", text(fieldrules.MaxBytes)); !tooLarge(err) {
		t.Errorf("too long: %v", err)
	}
	if got, _ := fields(m.Check(t.Context(), "proto", text(4_000_001))); len(got) != 1 || got[0] != "text" {
		t.Errorf("longer than its rule says: %q", got)
	}
	ended, end := context.WithCancel(t.Context())
	end()
	if err := m.Check(ended, "proto", text(1000)); err != nil {
		t.Errorf("a small one waits for nobody: %v", err)
	}
}

func wire(err error) error {
	w, _ := rpcerr.ToConnect(err)
	return w
}

// A rule that cannot be evaluated is nothing that its caller did wrong.
func TestRulesThatFail(t *testing.T) {
	file := ruled.File()
	file.MessageType = append(file.MessageType, message(t, `name: "Few" field { name: "numbers" number: 1 type: TYPE_INT32 label: LABEL_REPEATED }
		options { [buf.validate.message] { cel { id: "third" expression: "this.numbers[2] > 0" } } }`))
	file.Service[0].Method[0].InputType = new(".acme.orders.v1.Few")
	err := of(t, file).Method("Place").Check(t.Context(), "json", []byte(`{"numbers":[1]}`))
	if _, ok := errors.AsType[*rpcerr.Error](err); err == nil || ok {
		t.Errorf("%v", err)
	}
	if _, known := rpcerr.ToConnect(err); known {
		t.Errorf("its caller would be told %v", err)
	}
}

func FuzzCheck(f *testing.F) {
	m := of(f, ruled.File()).Method("Place")
	b, err := proto.Marshal(ruled.Order(ruled.Good))
	if err != nil {
		f.Fatal(err)
	}
	text, err := protojson.Marshal(ruled.Order(ruled.Good))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b, true)
	f.Add(text, false)
	f.Add([]byte(`{"extra":{"@type":"a/b.C","x":{"@type":""}},"lines":[{"parts":[{}]}]}`), false)
	f.Fuzz(func(t *testing.T, message []byte, binary bool) {
		codec := "json"
		if binary {
			codec = "proto"
		}
		err := m.Check(t.Context(), codec, message)
		if _, known := rpcerr.ToConnect(err); err != nil && !known {
			t.Errorf("%q: %v", message, err)
		}
	})
}

func BenchmarkCheck(b *testing.B) {
	m := of(b, ruled.File()).Method("Place")
	order := ruled.Order(ruled.Good)
	binary, err := proto.Marshal(order)
	if err != nil {
		b.Fatal(err)
	}
	text, err := protojson.Marshal(order)
	if err != nil {
		b.Fatal(err)
	}
	for _, test := range []struct {
		codec   string
		message []byte
	}{{"proto", binary}, {"json", text}} {
		b.Run(test.codec, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if err := m.Check(b.Context(), test.codec, test.message); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkCompile(b *testing.B) {
	set := ruled.Descriptors(ruled.File())
	b.ReportAllocs()
	for b.Loop() {
		if err := ofSet(b, set).Compile(); err != nil {
			b.Fatal(err)
		}
	}
}
