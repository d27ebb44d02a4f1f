package exporter

import (
	"bufio"
	"encoding/hex"
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"
	"unicode/utf8"

	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/internal/value"
)

// Bounds of one INSERT. A row that is larger is one of its own.
const (
	maxInsertRows  = 100
	maxInsertBytes = 32 << 10
)

// sqlDump writes statements that make an equal database: tables, rows under their rowids, then what stands on them.
type sqlDump struct {
	name string
	out  *bufio.Writer
	buf  []byte

	later  []string // statements for the end
	insert string   // how a row's INSERT begins; empty before the first table
	values int      // of a row
	rows   int      // in the open INSERT
	bytes  int
}

// SQL returns the format of an SQL dump of a database, which sqlite3 and `nearside import` read.
func SQL(w io.Writer, database string) Format {
	return &sqlDump{name: database, out: bufio.NewWriterSize(w, bufferBytes)}
}

// Schema implements Format.
func (d *sqlDump) Schema(objects []*datav1.ExportResponse_Object, answer *datav1.Answer) error {
	d.write(fmt.Sprintf("-- nearside export of database %s at bookmark %s\nPRAGMA foreign_keys=OFF;\nBEGIN TRANSACTION;\n",
		d.name, answer.GetBookmark()))
	for _, o := range objects {
		if o.GetType() != "table" {
			d.later = append(d.later, o.GetSql())
			continue
		}
		d.write(o.GetSql())
		d.write(";\n")
	}
	return d.out.Flush()
}

// Table implements Format.
func (d *sqlDump) Table(t *datav1.ExportResponse_Table) error {
	d.close()
	var b strings.Builder
	b.WriteString("INSERT INTO " + quoteName(t.GetName()) + " (")
	if t.GetRowid() != "" {
		b.WriteString(t.GetRowid())
	}
	for i, c := range t.GetColumns() {
		if i > 0 || t.GetRowid() != "" {
			b.WriteString(", ")
		}
		b.WriteString(quoteName(c.GetName()))
	}
	b.WriteString(") VALUES\n")
	d.insert, d.values = b.String(), len(t.GetColumns())
	if t.GetRowid() != "" {
		d.values++
	}
	if t.GetName() == sequences { // the rows above have made some
		d.write("DELETE FROM " + sequences + ";\n")
	}
	return nil
}

const sequences = "sqlite_sequence"

// Rows implements Format.
func (d *sqlDump) Rows(rows []*datav1.Row) error {
	for _, row := range rows {
		if len(row.GetValues()) != d.values {
			return fmt.Errorf("a row has %d values, want %d", len(row.GetValues()), d.values)
		}
		d.buf = append(d.buf[:0], '(')
		for i, v := range row.GetValues() {
			if i > 0 {
				d.buf = append(d.buf, ',')
			}
			d.buf = appendLiteral(d.buf, v)
		}
		d.buf = append(d.buf, ')')
		switch {
		case d.rows == maxInsertRows || d.rows > 0 && d.bytes+len(d.buf) > maxInsertBytes:
			d.close()
			fallthrough
		case d.rows == 0:
			d.write(d.insert)
		default:
			d.write(",\n")
		}
		if _, err := d.out.Write(d.buf); err != nil {
			return err
		}
		d.rows++
		d.bytes += len(d.buf)
	}
	return nil
}

// write writes s. What goes wrong is what a later Write or Flush returns.
func (d *sqlDump) write(s string) {
	d.out.WriteString(s) //nolint:errcheck // see above
}

// close ends the open INSERT.
func (d *sqlDump) close() {
	if d.rows > 0 {
		d.write(";\n")
	}
	d.rows, d.bytes = 0, 0
}

// End implements Format.
func (d *sqlDump) End() error {
	d.close()
	for _, statement := range d.later {
		d.write(statement)
		d.write(";\n")
	}
	d.write("COMMIT;\n")
	return d.out.Flush()
}

func quoteName(name string) string { return `"` + strings.ReplaceAll(name, `"`, `""`) + `"` }

// appendLiteral appends a value as SQLite reads it back, to the bit.
func appendLiteral(dst []byte, v *datav1.Value) []byte {
	switch k := v.GetKind().(type) {
	case *datav1.Value_Integer:
		return strconv.AppendInt(dst, k.Integer, 10)
	case *datav1.Value_Real:
		return appendReal(dst, k.Real)
	case *datav1.Value_Text:
		if !utf8.ValidString(k.Text) || strings.IndexByte(k.Text, 0) >= 0 {
			return appendText(dst, []byte(k.Text))
		}
		dst = append(dst, '\'')
		for {
			i := strings.IndexByte(k.Text, '\'')
			if i < 0 {
				break
			}
			dst = append(append(dst, k.Text[:i]...), "''"...)
			k = &datav1.Value_Text{Text: k.Text[i+1:]}
		}
		return append(append(dst, k.Text...), '\'')
	case *datav1.Value_TextBytes:
		return appendText(dst, k.TextBytes)
	case *datav1.Value_Blob:
		return appendBlob(dst, k.Blob)
	default:
		return append(dst, "NULL"...)
	}
}

// appendText appends text that no literal can hold.
func appendText(dst, text []byte) []byte {
	return append(appendBlob(append(dst, "CAST("...), text), " AS TEXT)"...)
}

func appendBlob(dst, b []byte) []byte {
	return append(hex.AppendEncode(append(dst, "x'"...), b), '\'')
}

// appendReal appends the shortest number that SQLite reads as f, which takes more digits than others need now and then.
func appendReal(dst []byte, f float64) []byte {
	switch {
	case math.IsInf(f, 1):
		return append(dst, "9e999"...)
	case math.IsInf(f, -1):
		return append(dst, "-9e999"...)
	case math.IsNaN(f): // SQLite has none
		return append(dst, "NULL"...)
	}
	start := len(dst)
	for _, digits := range []int{-1, 17, 18, 16} {
		dst = strconv.AppendFloat(dst[:start], f, 'e', digits, 64)
		if reads(dst[start:], f) {
			break
		}
	}
	return dst
}

// reads reports whether SQLite reads a number as f.
func reads(number []byte, f float64) bool {
	v := value.Numeric(value.TextBytes(number))
	if v.Kind() == value.KindInteger {
		return float64(v.Integer()) == f
	}
	return v.Real() == f
}
