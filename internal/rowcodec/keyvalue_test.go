package rowcodec_test

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/nearside-dev/nearside/internal/catalog"
	"github.com/nearside-dev/nearside/internal/rowcodec"
	"github.com/nearside-dev/nearside/internal/value"
)

var collations = []struct {
	name      string
	collation catalog.Collation
}{
	{"BINARY", catalog.CollationBinary},
	{"NOCASE", catalog.CollationNoCase},
	{"RTRIM", catalog.CollationRTrim},
}

// orderedValues are values near every edge of the encoding and some random ones.
func orderedValues() []value.Value {
	vals := []value.Value{value.Null()}
	for _, i := range []int64{
		0, 1, 2, 127, 255, 256, 1<<53 - 1, 1 << 53, 1<<53 + 1, 1<<53 + 2, 1<<53 + 3, 1<<54 + 1, 1<<54 + 2, 1<<62 - 1, 1 << 62,
		1<<62 + 1, 1<<62 + 512, 1<<62 + 1023, math.MaxInt64 - 1024, math.MaxInt64 - 1023, math.MaxInt64 - 512,
		math.MaxInt64 - 1, math.MaxInt64,
	} {
		vals = append(vals, value.Integer(i), value.Integer(-i), value.Integer(-i-1), value.Real(float64(i)),
			value.Real(-float64(i)), value.Real(float64(i)+0.5), value.Real(math.Nextafter(float64(i), math.Inf(1))),
			value.Real(math.Nextafter(float64(i), math.Inf(-1))))
	}
	for _, f := range []float64{
		math.Copysign(0, -1), math.Inf(1), math.MaxFloat64, math.SmallestNonzeroFloat64, 0.1, 1e300, 1e-300,
	} {
		vals = append(vals, value.Real(f), value.Real(-f))
	}
	for _, s := range []string{
		"", " ", "  ", "\t", "a", "A", "b", "B", "a ", "A  ", "a b", "aB", "Ab", "a\t", "ab", "[",
		"`", "@", "Z", "z", "{", "é", "É",
		"\xff", "\xfe", "\xff\xff", "\x00", "\x00\x00", "\x01", "\x00\x01", "\x00\xff", "\x01\x00", "a\x00", "A\x00",
		"a\x00b", "a\x00B", "a\x00c", "a\x00cc", "a\x00\x00", "a\x00\xff", "a\x00 ", "a\x00  ", "b\x00", "a\x01", "a\xff",
		"a \x00", "a\x00 x", " a", "a\u00a0", "10", "9",
	} {
		vals = append(vals, value.Text(s), value.Blob([]byte(s)))
	}
	rnd := rand.New(rand.NewPCG(3, 4))
	for range 100 {
		i := rnd.Int64() >> rnd.IntN(64)
		vals = append(vals, value.Integer(i), value.Integer(-i), value.Real(float64(i)),
			value.Real(math.Float64frombits(rnd.Uint64())))
		b := make([]byte, rnd.IntN(6))
		for j := range b {
			b[j] = "\x00\x01\xff aAbB"[rnd.IntN(8)]
		}
		vals = append(vals, value.TextBytes(b), value.Blob(b))
	}
	return vals
}

func show(v value.Value) string { return fmt.Sprintf("%v %v", v.Kind(), bind(v)) }

func TestKeyOrderIsSQLites(t *testing.T) {
	vals := orderedValues()
	for _, c := range collations {
		t.Run(c.name, func(t *testing.T) {
			db := openSQLite(t)
			execSQL(t, db, "CREATE TABLE t (id INTEGER PRIMARY KEY, v COLLATE "+c.name+")")
			for i, v := range vals {
				execSQL(t, db, "INSERT INTO t VALUES (?, ?)", i, bind(v))
			}
			rank := make([]int64, len(vals))
			ranks := "SELECT 'integer', id, 'integer', dense_rank() OVER (ORDER BY v) FROM t"
			for _, row := range query(t, db, ranks) {
				rank[row[0].Integer()] = row[1].Integer()
			}
			for _, desc := range []bool{false, true} {
				keys := make([][]byte, len(vals))
				for i, v := range vals {
					keys[i] = rowcodec.AppendKeyValue(nil, v, c.collation, desc)
				}
				for i := range vals {
					for j := range vals {
						want := cmp.Compare(rank[i], rank[j])
						if desc {
							want = -want
						}
						if got := bytes.Compare(keys[i], keys[j]); got != want {
							t.Errorf("%s against %s, desc %v: keys %d, SQLite %d", show(vals[i]), show(vals[j]), desc, got, want)
						}
						if want != 0 && bytes.HasPrefix(keys[j], keys[i]) {
							t.Errorf("key of %s begins that of %s, desc %v", show(vals[i]), show(vals[j]), desc)
						}
					}
				}
			}
		})
	}
}

func TestDecodeKeyValueRoundTrip(t *testing.T) {
	for _, v := range orderedValues() {
		for _, c := range collations {
			for _, desc := range []bool{false, true} {
				key := rowcodec.AppendKeyValue([]byte("before"), v, c.collation, desc)[len("before"):]
				got, rest, err := rowcodec.DecodeKeyValue(append(key, "after"...), desc)
				if err != nil || string(rest) != "after" {
					t.Fatalf("%s: rest %q, error %v", show(v), rest, err)
				}
				if again := rowcodec.AppendKeyValue(nil, got, c.collation, desc); !bytes.Equal(again, key) {
					t.Errorf("%s under %s decodes to %s, which has another key", show(v), c.name, show(got))
				}
				if got.Kind() == value.KindReal && got.Real() == math.Trunc(got.Real()) && math.Abs(got.Real()) < 1<<63 {
					t.Errorf("%s decodes to an integral %s", show(v), show(got))
				}
				exact := v.Kind() != value.KindReal && (v.Kind() != value.KindText || c.collation == catalog.CollationBinary)
				if exact && !value.Equal(got, v) {
					t.Errorf("%s decodes to %s", show(v), show(got))
				}
			}
		}
	}
}

func TestDecodedTextIsFolded(t *testing.T) {
	for _, test := range []struct {
		collation  catalog.Collation
		text, want string
	}{
		{catalog.CollationBinary, "aB\x00C ", "aB\x00C "},
		{catalog.CollationNoCase, "aB C É", "ab c É"},
		{catalog.CollationNoCase, "aB\x00Cd", "ab\x00\x00\x00"},
		{catalog.CollationRTrim, "aB \t  ", "aB \t"},
	} {
		key := rowcodec.AppendKeyValue(nil, value.Text(test.text), test.collation, false)
		v, _, err := rowcodec.DecodeKeyValue(key, false)
		if err != nil || v.Text() != test.want {
			t.Errorf("%q under %d decodes to %q, error %v, want %q", test.text, test.collation, v.Text(), err, test.want)
		}
	}
}

func TestDecodeKeyValueRefuses(t *testing.T) {
	for _, test := range []struct {
		name string
		key  string
	}{
		{"nothing", ""},
		{"unknown tag", "\x50"},
		{"no number", "\x20"},
		{"short number", "\x20\x80\x00\x00\x00\x00\x00\x00"},
		{"no remainder", "\x20\xc3\x40\x00\x00\x00\x00\x00\x00"},
		{"short remainder", "\x20\xc3\x40\x00\x00\x00\x00\x00\x00\x00"},
		{"remainder reaching the next float", "\x20\xc3\x40\x00\x00\x00\x00\x00\x00\x00\x02"},
		{"remainder of an infinite", "\x20\xff\xf0\x00\x00\x00\x00\x00\x00\x00\x01"},
		{"remainder past the greatest integer", "\x20\xc3\xdf\xff\xff\xff\xff\xff\xff\x04\x00"},
		{"not a number", "\x20\xff\xf8\x00\x00\x00\x00\x00\x00"},
		{"minus zero", "\x20\x7f\xff\xff\xff\xff\xff\xff\xff"},
		{"text without end", "\x30abc"},
		{"text ending in escape", "\x30abc\x00"},
		{"blob with unknown escape", "\x40abc\x00\x02\x00\x01"},
	} {
		t.Run(test.name, func(t *testing.T) {
			for _, desc := range []bool{false, true} {
				b := []byte(test.key)
				if desc {
					for i := range b {
						b[i] = ^b[i]
					}
				}
				if v, _, err := rowcodec.DecodeKeyValue(b, desc); !errors.Is(err, rowcodec.ErrCorrupt) {
					t.Errorf("decoded to %s, error %v, desc %v", show(v), err, desc)
				}
			}
		})
	}
}

func FuzzDecodeKeyValue(f *testing.F) {
	for _, v := range orderedValues()[:80] {
		f.Add(rowcodec.AppendKeyValue(nil, v, catalog.CollationBinary, false), false)
		f.Add(rowcodec.AppendKeyValue(nil, v, catalog.CollationBinary, true), true)
	}
	f.Add([]byte("\x30a\x00\xffb\x00\x01rest"), false)
	f.Add([]byte("\x30a\x00\xff"), false)
	f.Fuzz(func(t *testing.T, b []byte, desc bool) {
		v, rest, err := rowcodec.DecodeKeyValue(b, desc)
		skipped, skipErr := rowcodec.SkipKeyValue(b, desc)
		if err != nil {
			if !errors.Is(err, rowcodec.ErrCorrupt) {
				t.Fatalf("error %v is not ErrCorrupt", err)
			}
			return
		}
		if skipErr != nil || !bytes.Equal(skipped, rest) {
			t.Fatalf("skip leaves %x, error %v, decode %x", skipped, skipErr, rest)
		}
		if again := rowcodec.AppendKeyValue(nil, v, catalog.CollationBinary, desc); !bytes.Equal(append(again, rest...), b) {
			t.Fatalf("%x decodes to %s, which has another key", b, show(v))
		}
	})
}

func FuzzKeyOrder(f *testing.F) {
	db := openSQLite(f)
	f.Add([]byte("a\x00b"), []byte("A\x00cc"), int64(1<<53+1), 9007199254740992.0)
	f.Add([]byte("a "), []byte("a"), int64(math.MaxInt64), 9223372036854775808.0)
	f.Add([]byte("Z"), []byte("_"), int64(-1), math.Copysign(0, -1))
	f.Fuzz(func(t *testing.T, a, b []byte, i int64, r float64) {
		for _, c := range collations {
			checkOrder(t, db.QueryRow("SELECT ?1 < ?2 COLLATE "+c.name+", ?1 = ?2 COLLATE "+c.name, string(a), string(b)),
				rowcodec.AppendKeyValue(nil, value.TextBytes(a), c.collation, false),
				rowcodec.AppendKeyValue(nil, value.TextBytes(b), c.collation, false))
		}
		if math.IsNaN(r) {
			return
		}
		checkOrder(t, db.QueryRow("SELECT ?1 < ?2, ?1 = ?2", i, r),
			rowcodec.AppendKeyValue(nil, value.Integer(i), 0, false),
			rowcodec.AppendKeyValue(nil, value.Real(r), 0, false))
	})
}

func checkOrder(t *testing.T, row interface{ Scan(...any) error }, a, b []byte) {
	t.Helper()
	var less, equal bool
	if err := row.Scan(&less, &equal); err != nil {
		t.Fatal(err)
	}
	if got := bytes.Compare(a, b); (got < 0) != less || (got == 0) != equal {
		t.Errorf("keys %x and %x compare %d, SQLite says less %v, equal %v", a, b, got, less, equal)
	}
}
