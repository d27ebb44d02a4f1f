package render

import (
	"encoding/hex"
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"
	"unicode"

	"golang.org/x/text/width"

	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/internal/value"
)

// maxCellWidth is where a cell is cut, so that one long text does not push the others out of sight.
const maxCellWidth = 200

// Table writes rows under their headings, aligned; numeric says which columns stand to the right (those beyond it do
// not). Control characters are escaped, so that data cannot drive the terminal.
func Table(w io.Writer, headings []string, rows [][]string, numeric []bool) error {
	return Painted(w, headings, rows, numeric, nil)
}

// Painted is Table with colours: paint gives the one of a cell, by its row (-1 is the headings) and column. nil paints nothing.
func Painted(w io.Writer, headings []string, rows [][]string, numeric []bool, paint func(row, column int) Color) error {
	widths := make([]int, len(headings))
	printable := func(cells []string) []string {
		out := make([]string, len(headings))
		for i := range min(len(cells), len(out)) {
			out[i] = cut(escape(cells[i]))
			widths[i] = max(widths[i], displayWidth(out[i]))
		}
		return out
	}
	lines := make([][]string, 0, len(rows)+2)
	lines = append(lines, printable(headings), nil)
	for _, row := range rows {
		lines = append(lines, printable(row))
	}
	rule := make([]string, len(headings))
	for i, n := range widths {
		rule[i] = strings.Repeat("-", n)
	}
	lines[1] = rule
	var b strings.Builder
	for n, line := range lines {
		b.Reset()
		for i, cell := range line {
			pad := strings.Repeat(" ", widths[i]-displayWidth(cell))
			if i > 0 {
				b.WriteString("  ")
			}
			if paint != nil && n != 1 { // the rule
				cell = paint(max(n-2, -1), i).on(cell)
			}
			switch {
			case i < len(numeric) && numeric[i]:
				b.WriteString(pad + cell)
			case i == len(line)-1:
				b.WriteString(cell)
			default:
				b.WriteString(cell + pad)
			}
		}
		if _, err := fmt.Fprintln(w, strings.TrimRight(b.String(), " ")); err != nil {
			return err
		}
	}
	return nil
}

// ResultTable writes a statement's rows as a Table; nothing for a statement without columns.
func ResultTable(w io.Writer, result *datav1.ResultSet) error {
	columns := result.GetColumns()
	if len(columns) == 0 {
		return nil
	}
	headings := make([]string, len(columns))
	numeric := make([]bool, len(columns))
	for i, c := range columns {
		headings[i] = c.GetName()
		numeric[i] = isNumeric(result.GetRows(), i)
	}
	rows := make([][]string, len(result.GetRows()))
	for i, row := range result.GetRows() {
		rows[i] = make([]string, len(row.GetValues()))
		for j, v := range row.GetValues() {
			rows[i][j] = cell(v)
		}
	}
	return Table(w, headings, rows, numeric)
}

// isNumeric reports whether the column has a number and nothing else but NULL.
func isNumeric(rows []*datav1.Row, column int) bool {
	numbers := 0
	for _, row := range rows {
		if column >= len(row.GetValues()) {
			continue
		}
		switch row.GetValues()[column].GetKind().(type) {
		case *datav1.Value_Integer, *datav1.Value_Real:
			numbers++
		case *datav1.Value_Null, nil:
		default:
			return false
		}
	}
	return numbers > 0
}

func cell(v *datav1.Value) string {
	switch k := v.GetKind().(type) {
	case *datav1.Value_Integer:
		return strconv.FormatInt(k.Integer, 10)
	case *datav1.Value_Real:
		if math.IsInf(k.Real, 0) {
			return string(value.AppendReal(nil, k.Real))
		}
		return string(appendReal(nil, k.Real))
	case *datav1.Value_Text:
		return k.Text
	case *datav1.Value_Blob:
		return "x'" + hexPrefix(k.Blob) + "'"
	case *datav1.Value_TextBytes:
		return string(k.TextBytes)
	default:
		return "NULL"
	}
}

// hexPrefix returns b in hex as far as a cell can show it.
func hexPrefix(b []byte) string { return hex.EncodeToString(b[:min(len(b), maxCellWidth)]) }

func escape(s string) string {
	clean := true
	for _, r := range s {
		if r == unicode.ReplacementChar || !unicode.IsPrint(r) {
			clean = false
			break
		}
	}
	if clean {
		return s
	}
	var b strings.Builder
	for _, r := range s {
		if unicode.IsPrint(r) {
			b.WriteRune(r)
		} else {
			quoted := strconv.QuoteRune(r)
			b.WriteString(quoted[1 : len(quoted)-1])
		}
	}
	return b.String()
}

func cut(s string) string {
	n := 0
	for i, r := range s {
		if n += runeWidth(r); n > maxCellWidth {
			return s[:i] + "…"
		}
	}
	return s
}

func displayWidth(s string) (n int) {
	for _, r := range s {
		n += runeWidth(r)
	}
	return n
}

// runeWidth is how many cells a terminal gives r.
func runeWidth(r rune) int {
	switch {
	case r < unicode.MaxASCII:
		return 1
	case unicode.In(r, unicode.Mn, unicode.Me):
		return 0
	}
	switch width.LookupRune(r).Kind() {
	case width.EastAsianWide, width.EastAsianFullwidth:
		return 2
	default:
		return 1
	}
}
