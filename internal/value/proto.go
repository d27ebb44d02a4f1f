package value

import (
	"unicode/utf8"

	"google.golang.org/protobuf/types/known/structpb"

	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
)

// ToProto returns v's wire form. Bytes are shared for blobs, copied for text.
func ToProto(v Value) *datav1.Value {
	p := new(datav1.Value)
	SetProto(p, v)
	return p
}

// SetProto makes p, which is empty, v's wire form. Bytes are shared for blobs, copied for text.
func SetProto(p *datav1.Value, v Value) {
	switch v.kind {
	case KindInteger:
		p.Kind = &datav1.Value_Integer{Integer: v.Integer()}
	case KindReal:
		p.Kind = &datav1.Value_Real{Real: v.Real()}
	case KindText:
		if utf8.Valid(v.bytes) {
			p.Kind = &datav1.Value_Text{Text: string(v.bytes)}
		} else {
			p.Kind = &datav1.Value_TextBytes{TextBytes: v.bytes}
		}
	case KindBlob:
		p.Kind = &datav1.Value_Blob{Blob: v.bytes}
	case KindNull:
		p.Kind = &datav1.Value_Null{Null: structpb.NullValue_NULL_VALUE}
	default:
	}
}

// FromProto returns the value of a wire form; nil and an absent kind are NULL. Blob bytes are shared.
func FromProto(p *datav1.Value) Value {
	switch k := p.GetKind().(type) {
	case *datav1.Value_Integer:
		return Integer(k.Integer)
	case *datav1.Value_Real:
		return Real(k.Real)
	case *datav1.Value_Text:
		return Text(k.Text)
	case *datav1.Value_Blob:
		return Blob(k.Blob)
	case *datav1.Value_TextBytes:
		return TextBytes(k.TextBytes)
	default:
		return Null()
	}
}

// FromProtos converts a list.
func FromProtos(ps []*datav1.Value) []Value {
	vs := make([]Value, len(ps))
	for i, p := range ps {
		vs[i] = FromProto(p)
	}
	return vs
}

// ToProtos converts a list.
func ToProtos(vs []Value) []*datav1.Value {
	ps := make([]*datav1.Value, len(vs))
	for i, v := range vs {
		ps[i] = ToProto(v)
	}
	return ps
}
