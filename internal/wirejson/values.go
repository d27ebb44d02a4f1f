package wirejson

import (
	"encoding/base64"
	"math"
	"strconv"
	"time"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/reflect/protoreflect"
)

const timestampName = "google.protobuf.Timestamp"

// formatOf returns how values of a field are written.
func formatOf(f *Field) (format, error) {
	d := f.Descriptor
	switch d.Kind() {
	case protoreflect.BoolKind:
		return appendBool, nil
	case protoreflect.StringKind:
		return appendText, nil
	case protoreflect.BytesKind:
		return appendBytes, nil
	case protoreflect.EnumKind:
		if d.Enum().IsClosed() || f.Enum == nil {
			return nil, unsupported(d)
		}
		return appendEnum, nil
	case protoreflect.MessageKind:
		switch {
		case d.Message().FullName() == timestampName:
			return appendTime, nil
		case f.Object != nil:
			return appendObject, nil
		}
		return nil, unsupported(d)
	case protoreflect.FloatKind, protoreflect.DoubleKind, protoreflect.GroupKind:
		return nil, unsupported(d)
	default:
		return appendNumber, nil
	}
}

func appendBool(dst, value []byte, _ *Field, _ protoreflect.Kind, _ int) ([]byte, bool) {
	v, _ := protowire.ConsumeVarint(value)
	return strconv.AppendBool(dst, v != 0), true
}

func appendText(dst, value []byte, _ *Field, _ protoreflect.Kind, _ int) ([]byte, bool) {
	text, _ := protowire.ConsumeBytes(value)
	if !utf8.Valid(text) {
		return dst, false
	}
	return AppendString(dst, text), true
}

func appendBytes(dst, value []byte, _ *Field, _ protoreflect.Kind, _ int) ([]byte, bool) {
	b, _ := protowire.ConsumeBytes(value)
	return append(base64.StdEncoding.AppendEncode(append(dst, '"'), b), '"'), true
}

func appendEnum(dst, value []byte, f *Field, _ protoreflect.Kind, _ int) ([]byte, bool) {
	v, _ := protowire.ConsumeVarint(value)
	n := protoreflect.EnumNumber(int32(v)) // as package proto reads it
	if name, ok := f.Enum[n]; ok {
		return AppendString(dst, name), true
	}
	return strconv.AppendInt(dst, int64(n), 10), f.OpenEnum
}

func appendObject(dst, value []byte, f *Field, _ protoreflect.Kind, depth int) ([]byte, bool) {
	message, _ := protowire.ConsumeBytes(value)
	return f.Object.append(dst, message, depth+1)
}

func appendNumber(dst, value []byte, f *Field, kind protoreflect.Kind, _ int) ([]byte, bool) {
	signed, unsigned := int64(0), uint64(0)
	isSigned := true
	switch kind {
	case protoreflect.Int32Kind:
		v, _ := protowire.ConsumeVarint(value)
		signed = int64(int32(v)) // as package proto reads it
	case protoreflect.Sint32Kind:
		v, _ := protowire.ConsumeVarint(value)
		signed = protowire.DecodeZigZag(v & 0xffffffff)
	case protoreflect.Int64Kind:
		v, _ := protowire.ConsumeVarint(value)
		signed = int64(v) // so it was encoded
	case protoreflect.Sint64Kind:
		v, _ := protowire.ConsumeVarint(value)
		signed = protowire.DecodeZigZag(v)
	case protoreflect.Sfixed32Kind:
		v, _ := protowire.ConsumeFixed32(value)
		signed = int64(int32(v)) // so it was encoded
	case protoreflect.Sfixed64Kind:
		v, _ := protowire.ConsumeFixed64(value)
		signed = int64(v) // so it was encoded
	default:
		isSigned = false
		switch kind {
		case protoreflect.Uint32Kind:
			v, _ := protowire.ConsumeVarint(value)
			unsigned = v & 0xffffffff
		case protoreflect.Uint64Kind:
			unsigned, _ = protowire.ConsumeVarint(value)
		case protoreflect.Fixed32Kind:
			v, _ := protowire.ConsumeFixed32(value)
			unsigned = uint64(v)
		case protoreflect.Fixed64Kind:
			unsigned, _ = protowire.ConsumeFixed64(value)
		default:
			return dst, false
		}
	}
	if f.Int && (signed > math.MaxInt32 || signed < math.MinInt32 || unsigned > math.MaxInt32) {
		return dst, false
	}
	if f.Text {
		dst = append(dst, '"')
	}
	if isSigned {
		dst = strconv.AppendInt(dst, signed, 10)
	} else {
		dst = strconv.AppendUint(dst, unsigned, 10)
	}
	if f.Text {
		dst = append(dst, '"')
	}
	return dst, true
}

// The times that a timestamp may be, as seconds since 1970: from year 1 to year 9999.
const (
	firstSecond = -62135596800
	lastSecond  = 253402300799
)

// appendTime appends a timestamp with as many digits of its second as it needs: none, 3, 6 or 9.
func appendTime(dst, value []byte, _ *Field, _ protoreflect.Kind, _ int) ([]byte, bool) {
	message, _ := protowire.ConsumeBytes(value)
	var parts [3]uint64 // by number
	for len(message) > 0 {
		number, wire, n := protowire.ConsumeTag(message)
		if n < 0 || wire != protowire.VarintType || number > 2 {
			return dst, false
		}
		v, size := protowire.ConsumeVarint(message[n:])
		if size < 0 {
			return dst, false
		}
		parts[number] = v
		message = message[n+size:]
	}
	seconds, nanos := int64(parts[1]), int64(int32(parts[2])) // as package proto reads them
	if seconds < firstSecond || seconds > lastSecond || nanos < 0 || nanos >= int64(time.Second) {
		return dst, false
	}
	t := time.Unix(seconds, nanos).UTC()
	year, month, day := t.Date()
	hour, minute, second := t.Clock()
	dst = digits(append(dst, '"'), year, 4)
	dst = digits(append(dst, '-'), int(month), 2)
	dst = digits(append(dst, '-'), day, 2)
	dst = digits(append(dst, 'T'), hour, 2)
	dst = digits(append(dst, ':'), minute, 2)
	dst = digits(append(dst, ':'), second, 2)
	switch n := int(nanos); {
	case n == 0:
	case n%1e6 == 0:
		dst = digits(append(dst, '.'), n/1e6, 3)
	case n%1e3 == 0:
		dst = digits(append(dst, '.'), n/1e3, 6)
	default:
		dst = digits(append(dst, '.'), n, 9)
	}
	return append(dst, `Z"`...), true
}

// digits appends a number with leading zeros.
func digits(dst []byte, n, width int) []byte {
	for range width {
		dst = append(dst, '0')
	}
	for i := len(dst) - 1; n > 0; i-- {
		dst[i] = byte('0' + n%10)
		n /= 10
	}
	return dst
}

const hexDigits = "0123456789abcdef"

// AppendString appends a string of JSON. What is no UTF-8 becomes U+FFFD.
func AppendString[T []byte | string](b []byte, s T) []byte {
	b = append(b, '"')
	start := 0
	for i := 0; i < len(s); {
		c := s[i]
		if c >= utf8.RuneSelf {
			end := min(len(s), i+utf8.UTFMax)
			r, size := utf8.DecodeRuneInString(string(s[i:end]))
			if r == utf8.RuneError && size == 1 {
				b = append(append(b, s[start:i]...), `\ufffd`...)
				i++
				start = i
				continue
			}
			i += size
			continue
		}
		if c >= ' ' && c != '"' && c != '\\' {
			i++
			continue
		}
		b = append(b, s[start:i]...)
		switch c {
		case '"', '\\':
			b = append(b, '\\', c)
		case '\n':
			b = append(b, `\n`...)
		case '\t':
			b = append(b, `\t`...)
		default:
			b = append(b, '\\', 'u', '0', '0', hexDigits[c>>4], hexDigits[c&15])
		}
		i++
		start = i
	}
	return append(append(b, s[start:]...), '"')
}
