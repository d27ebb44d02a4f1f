package render

import (
	"encoding/base64"
	"math"
	"strconv"
	"unicode/utf8"

	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/internal/rpcheader"
)

// AppendResult appends a statement's answer as one JSON object, without a line feed, and returns the extended buffer.
// Programs rely on its keys, their order and the form of its values:
//
//   - integers are exact, reals are the shortest number that reads back equal and keep a point or an exponent;
//   - infinities are {"real":"Inf"} and {"real":"-Inf"};
//   - blobs and text that is not valid UTF-8 are {"base64":"…"}.
func AppendResult(dst []byte, result *datav1.ResultSet, answer *datav1.Answer) []byte {
	dst = append(dst, `{"columns":[`...)
	for i, column := range result.GetColumns() {
		dst = appendComma(dst, i)
		dst = appendString(dst, column.GetName())
	}
	dst = append(dst, `],"rows":[`...)
	for i, row := range result.GetRows() {
		dst = appendComma(dst, i)
		dst = append(dst, '[')
		for j, v := range row.GetValues() {
			dst = appendComma(dst, j)
			dst = appendValue(dst, v)
		}
		dst = append(dst, ']')
	}
	dst = append(dst, `],"rowsAffected":`...)
	dst = strconv.AppendInt(dst, result.GetRowsAffected(), 10)
	dst = append(dst, `,"lastInsertRowid":`...)
	if result.LastInsertRowid != nil {
		dst = strconv.AppendInt(dst, result.GetLastInsertRowid(), 10)
	} else {
		dst = append(dst, "null"...)
	}
	dst = append(dst, `,"bookmark":`...)
	dst = appendString(dst, answer.GetBookmark())
	dst = append(dst, `,"region":`...)
	dst = appendString(dst, answer.GetRegion())
	dst = append(dst, `,"source":`...)
	dst = appendString(dst, source(answer))
	dst = append(dst, `,"servedByPrimary":`...)
	dst = strconv.AppendBool(dst, answer.GetServedByPrimary())
	dst = append(dst, `,"stalenessMs":`...)
	dst = strconv.AppendUint(dst, uint64(answer.GetStalenessMs()), 10)
	dst = append(dst, `,"sqlMs":`...)
	dst = appendNumber(dst, answer.GetSqlMs())
	return append(dst, '}')
}

// source names where the work was done. A write has no source of its own: the primary did it.
func source(answer *datav1.Answer) string {
	if answer.GetSource() == datav1.Source_SOURCE_UNSPECIFIED && answer.GetServedByPrimary() {
		return rpcheader.SourceName(datav1.Source_SOURCE_PRIMARY)
	}
	return rpcheader.SourceName(answer.GetSource())
}

func appendComma(dst []byte, i int) []byte {
	if i > 0 {
		return append(dst, ',')
	}
	return dst
}

func appendValue(dst []byte, v *datav1.Value) []byte {
	switch k := v.GetKind().(type) {
	case *datav1.Value_Integer:
		return strconv.AppendInt(dst, k.Integer, 10)
	case *datav1.Value_Real:
		return appendReal(dst, k.Real)
	case *datav1.Value_Text:
		return appendString(dst, k.Text)
	case *datav1.Value_Blob:
		return appendBase64(dst, k.Blob)
	case *datav1.Value_TextBytes:
		return appendBase64(dst, k.TextBytes)
	default:
		return append(dst, "null"...)
	}
}

func appendReal(dst []byte, f float64) []byte {
	switch {
	case math.IsInf(f, 1):
		return append(dst, `{"real":"Inf"}`...)
	case math.IsInf(f, -1):
		return append(dst, `{"real":"-Inf"}`...)
	case math.IsNaN(f): // SQLite has none
		return append(dst, "null"...)
	}
	start := len(dst)
	dst = appendNumber(dst, f)
	for _, c := range dst[start:] {
		if c == '.' || c == 'e' {
			return dst
		}
	}
	return append(dst, ".0"...) // 1.0 is not the integer 1
}

// appendNumber appends a finite f, with an exponent only where it would be very long without, as JavaScript does.
func appendNumber(dst []byte, f float64) []byte {
	format := byte('f')
	if abs := math.Abs(f); abs != 0 && (abs < 1e-6 || abs >= 1e21) {
		format = 'e'
	}
	return strconv.AppendFloat(dst, f, format, -1, 64)
}

func appendBase64(dst, b []byte) []byte {
	dst = append(dst, `{"base64":"`...)
	dst = base64.StdEncoding.AppendEncode(dst, b)
	return append(dst, `"}`...)
}

const hexDigits = "0123456789abcdef"

// appendString quotes s. Bytes that are not UTF-8 become U+FFFD.
func appendString(dst []byte, s string) []byte {
	dst = append(dst, '"')
	for i := 0; i < len(s); {
		c := s[i]
		switch {
		case c == '"' || c == '\\':
			dst = append(dst, '\\', c)
		case c == '\n':
			dst = append(dst, `\n`...)
		case c == '\r':
			dst = append(dst, `\r`...)
		case c == '\t':
			dst = append(dst, `\t`...)
		case c < ' ' || c == 0x7f:
			dst = append(dst, `\u00`...)
			dst = append(dst, hexDigits[c>>4], hexDigits[c&0xf])
		case c < utf8.RuneSelf:
			dst = append(dst, c)
		default:
			r, size := utf8.DecodeRuneInString(s[i:])
			dst = utf8.AppendRune(dst, r)
			i += size
			continue
		}
		i++
	}
	return append(dst, '"')
}
