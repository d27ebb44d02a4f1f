package render

import (
	"encoding/hex"
	"io"
	"math"
	"strconv"
	"strings"

	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
)

// AppendCSV appends values as a line of CSV (RFC 4180, but with a line feed): NULL is nothing at all and an empty text "", so
// that they can be told apart; blobs are x'…' in hexadecimal; numbers are as in JSON, infinities Inf and -Inf. Text that is not
// valid UTF-8 is written as it is.
func AppendCSV(dst []byte, values []*datav1.Value) []byte {
	for i, v := range values {
		dst = appendComma(dst, i)
		switch k := v.GetKind().(type) {
		case *datav1.Value_Integer:
			dst = strconv.AppendInt(dst, k.Integer, 10)
		case *datav1.Value_Real:
			switch {
			case math.IsInf(k.Real, 1):
				dst = append(dst, "Inf"...)
			case math.IsInf(k.Real, -1):
				dst = append(dst, "-Inf"...)
			default:
				dst = appendReal(dst, k.Real)
			}
		case *datav1.Value_Text:
			dst = appendField(dst, k.Text)
		case *datav1.Value_TextBytes:
			dst = appendField(dst, string(k.TextBytes))
		case *datav1.Value_Blob:
			dst = append(hex.AppendEncode(append(dst, "x'"...), k.Blob), '\'')
		default:
		}
	}
	return append(dst, '\n')
}

// AppendCSVNames appends the line of CSV with the columns' names.
func AppendCSVNames(dst []byte, columns []*datav1.Column) []byte {
	for i, c := range columns {
		dst = appendField(appendComma(dst, i), c.GetName())
	}
	return append(dst, '\n')
}

// appendField appends a text, in quotes where it needs them.
func appendField(dst []byte, s string) []byte {
	if s != "" && !strings.ContainsAny(s, "\",\r\n") && s[0] != ' ' && s[len(s)-1] != ' ' {
		return append(dst, s...)
	}
	dst = append(dst, '"')
	dst = append(dst, strings.ReplaceAll(s, `"`, `""`)...)
	return append(dst, '"')
}

// AppendObject appends a row as a line with a JSON object; its values are as in AppendResult.
func AppendObject(dst []byte, columns []*datav1.Column, values []*datav1.Value) []byte {
	dst = append(dst, '{')
	for i, v := range values {
		dst = appendString(appendComma(dst, i), columns[i].GetName())
		dst = appendValue(append(dst, ':'), v)
	}
	return append(dst, '}', '\n')
}

// ResultCSV writes a statement's rows as CSV with a line of names; nothing for a statement without columns.
func ResultCSV(w io.Writer, result *datav1.ResultSet) error {
	if len(result.GetColumns()) == 0 {
		return nil
	}
	buf := AppendCSVNames(nil, result.GetColumns())
	for _, row := range result.GetRows() {
		buf = AppendCSV(buf, row.GetValues())
	}
	_, err := w.Write(buf)
	return err
}

// CSV writes texts under their headings as CSV.
func CSV(w io.Writer, headings []string, rows [][]string) error {
	var buf []byte
	for _, cells := range append([][]string{headings}, rows...) {
		for i, cell := range cells {
			buf = appendField(appendComma(buf, i), cell)
		}
		buf = append(buf, '\n')
	}
	_, err := w.Write(buf)
	return err
}

// ResultLines writes a statement's rows a value a line, with an empty line between rows. Control characters are escaped.
func ResultLines(w io.Writer, result *datav1.ResultSet) error {
	width := 0
	for _, c := range result.GetColumns() {
		width = max(width, displayWidth(escape(c.GetName())))
	}
	var b strings.Builder
	for i, row := range result.GetRows() {
		if i > 0 {
			b.WriteString("\n")
		}
		for j, v := range row.GetValues() {
			name := escape(result.GetColumns()[j].GetName())
			b.WriteString(strings.Repeat(" ", width-displayWidth(name)) + name + " = " + escape(cell(v)) + "\n")
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}
