package sqllogictest

import (
	"crypto/md5" //nolint:gosec // the corpus has these sums
	"encoding/hex"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/nearside-dev/nearside/internal/value"
)

// Check compares an answer with what a query expects.
func (r *Record) Check(rows [][]value.Value) error {
	if !r.Checked {
		return nil
	}
	var first error
	for _, bits := range []int{64, 32} { // the corpus was written by programs that read integers as either
		got, err := r.format(rows, bits)
		if err == nil {
			err = r.compare(got)
		}
		if err == nil {
			return nil
		}
		if first == nil {
			first = err
		}
	}
	return first
}

func (r *Record) compare(got []string) error {
	want := r.Expected
	if n, sum, ok := hashed(want); ok {
		if have := Hash(got); n != len(got) || sum != have {
			return fmt.Errorf("%d values hashing to %s, want %d hashing to %s", len(got), have, n, sum)
		}
		return nil
	}
	if !slices.Equal(got, want) {
		return fmt.Errorf("got %s, want %s", shorten(got), shorten(want))
	}
	return nil
}

func shorten(values []string) string {
	const most = 40
	if len(values) > most {
		return fmt.Sprintf("%q and %d more", values[:most], len(values)-most)
	}
	return fmt.Sprintf("%q", values)
}

// hashed reads "N values hashing to MD5".
func hashed(expected []string) (n int, sum string, ok bool) {
	if len(expected) != 1 {
		return 0, "", false
	}
	words := strings.Fields(expected[0])
	if len(words) != 5 || strings.Join(words[1:4], " ") != "values hashing to" || len(words[4]) != 2*md5.Size {
		return 0, "", false
	}
	n, err := strconv.Atoi(words[0])
	return n, words[4], err == nil
}

// Hash returns the sum of values as the corpus has it.
func Hash(values []string) string {
	h := md5.New() //nolint:gosec // see the import
	for _, v := range values {
		h.Write([]byte(v + "\n"))
	}
	return hex.EncodeToString(h.Sum(nil))
}

// Values returns an answer's values as text, in the order in which they are compared.
func (r *Record) Values(rows [][]value.Value) ([]string, error) { return r.format(rows, 64) }

func (r *Record) format(rows [][]value.Value, bits int) ([]string, error) {
	formatted := make([][]string, len(rows))
	for i, row := range rows {
		if len(row) != len(r.Types) {
			return nil, fmt.Errorf("%d columns, want %d", len(row), len(r.Types))
		}
		for c, v := range row {
			formatted[i] = append(formatted[i], format(v, r.Types[c], bits))
		}
	}
	if r.Sort == SortRows {
		slices.SortStableFunc(formatted, slices.Compare[[]string])
	}
	values := slices.Concat(formatted...)
	if r.Sort == SortValues {
		slices.Sort(values)
	}
	return values, nil
}

// format writes a value as SQLite's own runner does.
func format(v value.Value, as byte, bits int) string {
	if v.IsNull() {
		return "NULL"
	}
	switch as {
	case 'I':
		i := toInteger(v)
		if bits == 32 {
			i = int64(int32(i)) // it wraps there too
		}
		return strconv.FormatInt(i, 10)
	case 'R':
		return formatReal(toReal(v))
	}
	text := toText(v)
	if text == "" {
		return "(empty)"
	}
	b := []byte(text)
	for i, c := range b {
		if c < ' ' || c > '~' {
			b[i] = '@'
		}
	}
	return string(b)
}

// formatReal writes three decimals, but no more than 16 digits that are not zero, as SQLite's printf does.
func formatReal(f float64) string {
	const digits = 16
	if math.Abs(f) < 1e12 || math.IsInf(f, 0) {
		return fmt.Sprintf("%.3f", f)
	}
	mantissa, exponent, _ := strings.Cut(strconv.FormatFloat(f, 'e', digits-1, 64), "e")
	e, _ := strconv.Atoi(exponent)
	sign := ""
	if mantissa[0] == '-' {
		sign, mantissa = "-", mantissa[1:]
	}
	all := strings.Replace(mantissa, ".", "", 1) + strings.Repeat("0", max(0, e+1+3-digits))
	return sign + all[:e+1] + "." + all[e+1:][:3]
}

func toInteger(v value.Value) int64 {
	switch v.Kind() {
	case value.KindInteger:
		return v.Integer()
	case value.KindReal:
		switch f := v.Real(); {
		case f <= math.MinInt64:
			return math.MinInt64
		case f >= math.MaxInt64:
			return math.MaxInt64
		default:
			return int64(f)
		}
	default:
		text := strings.TrimLeft(v.Text(), " \t\n\v\f\r")
		end := 0
		for end < len(text) && (text[end] >= '0' && text[end] <= '9' || end == 0 && (text[0] == '-' || text[0] == '+')) {
			end++
		}
		i, _ := strconv.ParseInt(text[:end], 10, 64) // what is no number is 0, and the limits are SQLite's
		return i
	}
}

func toReal(v value.Value) float64 {
	switch v.Kind() {
	case value.KindInteger:
		return float64(v.Integer())
	case value.KindReal:
		return v.Real()
	default:
		text := strings.TrimLeft(v.Text(), " \t\n\v\f\r")
		for end := len(text); end > 0; end-- {
			n := value.Numeric(value.Text(text[:end]))
			switch n.Kind() {
			case value.KindInteger:
				return float64(n.Integer())
			case value.KindReal:
				return n.Real()
			default:
			}
		}
		return 0
	}
}

func toText(v value.Value) string {
	switch v.Kind() {
	case value.KindInteger:
		return strconv.FormatInt(v.Integer(), 10)
	case value.KindReal:
		return string(value.AppendReal(nil, v.Real()))
	default:
		return v.Text()
	}
}
