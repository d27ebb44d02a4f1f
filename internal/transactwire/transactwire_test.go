package transactwire

import (
	"bytes"
	"math"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"

	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
)

func putOf(table string, values map[string]*datav1.Value) *datav1.Operation {
	return &datav1.Operation{Operation: &datav1.Operation_Put{Put: &datav1.Put{Table: table, Values: values}}}
}

// known are requests that Parse must read.
func known() []*datav1.TransactRequest {
	values := map[string]*datav1.Value{
		"null": {Kind: &datav1.Value_Null{}}, "zero": {Kind: &datav1.Value_Integer{}},
		"integer": {Kind: &datav1.Value_Integer{Integer: math.MinInt64}}, "real": {Kind: &datav1.Value_Real{Real: math.Inf(-1)}},
		"text": {Kind: &datav1.Value_Text{Text: strings.Repeat("é", 200)}}, "empty": {Kind: &datav1.Value_Text{}},
		"blob": {Kind: &datav1.Value_Blob{Blob: []byte{0, 255}}}, "nothing": {Kind: &datav1.Value_Blob{Blob: []byte{}}},
		"": {Kind: &datav1.Value_Real{}}, "ähnlich": {Kind: &datav1.Value_Integer{Integer: 1}},
	}
	return []*datav1.TransactRequest{
		{Database: "d", Operations: []*datav1.Operation{putOf("t", values)}},
		{Operations: []*datav1.Operation{putOf("", nil)}},
		{Database: "d", IdempotencyKey: "k", Operations: []*datav1.Operation{putOf("t", nil), putOf("u", values), putOf("t", values)}},
	}
}

// unknown are requests that it must leave alone.
func unknown() []*datav1.TransactRequest {
	return []*datav1.TransactRequest{
		{},
		{Database: "d"},
		{Database: "d", DeferForeignKeys: true, Operations: []*datav1.Operation{putOf("t", nil)}},
		{Database: "d", Operations: []*datav1.Operation{{}}},
		{Database: "d", Operations: []*datav1.Operation{{Operation: &datav1.Operation_Delete{Delete: &datav1.Delete{Table: "t"}}}}},
		{Operations: []*datav1.Operation{putOf("t", map[string]*datav1.Value{"a": {}})}},
		{Operations: []*datav1.Operation{putOf("t", map[string]*datav1.Value{"a": {Kind: &datav1.Value_TextBytes{TextBytes: []byte{1}}}})}},
		{Operations: []*datav1.Operation{putOf("t", map[string]*datav1.Value{"a": {Kind: &datav1.Value_Null{Null: structpb.NullValue(1)}}})}},
		{Operations: []*datav1.Operation{{Operation: &datav1.Operation_Put{Put: &datav1.Put{Table: "t", Precondition: &datav1.Precondition{}}}}}},
	}
}

func encode(t testing.TB, r *datav1.TransactRequest) []byte {
	t.Helper()
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestParse(t *testing.T) {
	for _, r := range known() {
		if got := Parse(encode(t, r)); got == nil || !proto.Equal(got, r) {
			t.Errorf("%v was read as %v", r, got)
		}
	}
	for _, r := range unknown() {
		if got := Parse(encode(t, r)); got != nil {
			t.Errorf("%v was read as %v", r, got)
		}
	}
}

// FuzzParse compares Parse and AppendRequest with package proto.
func FuzzParse(f *testing.F) {
	for _, r := range append(known(), unknown()...) {
		b := encode(f, r)
		f.Add(b, "")
		f.Add(append(b, b...), "key")
		f.Add(b[:len(b)*2/3], "k")
	}
	f.Add([]byte("\n\x80\x00\x12\x02\x12\x00"), "")
	f.Fuzz(func(t *testing.T, b []byte, key string) {
		kept := bytes.Clone(b)
		got := Parse(b)
		clear(b) // it must not be in the message
		if got == nil {
			return
		}
		want := new(datav1.TransactRequest)
		if err := proto.Unmarshal(kept, want); err != nil {
			t.Fatalf("%x is no request: %v", kept, err)
		}
		again := encode(t, got)
		if !bytes.Equal(again, encode(t, want)) {
			t.Fatalf("%x was read as %v, not as %v", kept, got, want)
		}
		if own := AppendRequest(nil, got, got.GetIdempotencyKey()); !bytes.Equal(own, again) {
			t.Fatalf("%v is encoded as %x, not as %x", got, own, again)
		}
		key = strings.ToValidUTF8(key, "")
		other := &datav1.TransactRequest{Database: got.GetDatabase(), Operations: got.GetOperations(), IdempotencyKey: key}
		if own := AppendRequest([]byte("x"), got, key); !bytes.Equal(own[1:], encode(t, other)) {
			t.Fatalf("%v is encoded as %x with the key %q", got, own, key)
		}
	})
}

func BenchmarkParse(b *testing.B) {
	encoded := encode(b, &datav1.TransactRequest{Database: "bench", Operations: []*datav1.Operation{
		putOf("users", map[string]*datav1.Value{
			"id": {Kind: &datav1.Value_Integer{Integer: 12345678}}, "email": {Kind: &datav1.Value_Text{Text: "user12345678@example.org"}},
			"age": {Kind: &datav1.Value_Integer{Integer: 44}}, "bio": {Kind: &datav1.Value_Text{Text: strings.Repeat("x", 150)}},
		}),
	}})
	b.Run("parse", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			Parse(encoded)
		}
	})
	b.Run("proto", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			_ = proto.Unmarshal(encoded, new(datav1.TransactRequest))
		}
	})
	request := Parse(encoded)
	b.Run("append", func(b *testing.B) {
		b.ReportAllocs()
		var out []byte
		for b.Loop() {
			out = AppendRequest(out[:0], request, "")
		}
	})
	b.Run("proto append", func(b *testing.B) {
		b.ReportAllocs()
		var out []byte
		for b.Loop() {
			out, _ = proto.MarshalOptions{Deterministic: true}.MarshalAppend(out[:0], request)
		}
	})
}
