package catalog_test

import (
	"database/sql"
	"fmt"
	"math"
	"math/rand/v2"
	"strconv"
	"testing"

	_ "modernc.org/sqlite"

	"github.com/nearside-dev/nearside/internal/catalog"
	"github.com/nearside-dev/nearside/internal/value"
)

var affinities = []struct {
	name     string
	affinity catalog.Affinity
}{
	{"BLOB", catalog.AffinityBlob},
	{"TEXT", catalog.AffinityText},
	{"NUMERIC", catalog.AffinityNumeric},
	{"INTEGER", catalog.AffinityInteger},
	{"REAL", catalog.AffinityReal},
}

// oracle is a real SQLite table with a column of each affinity.
type oracle struct {
	store, compare, load *sql.Stmt
}

func newOracle(tb testing.TB) *oracle {
	tb.Helper()
	db, err := sql.Open("sqlite", ":memory:")
	if err != nil {
		tb.Fatal(err)
	}
	db.SetMaxOpenConns(1)
	tb.Cleanup(func() {
		if err := db.Close(); err != nil {
			tb.Error(err)
		}
	})
	const schema = "CREATE TABLE t (id INTEGER PRIMARY KEY, b BLOB, t TEXT, n NUMERIC, i INTEGER, r REAL)"
	if _, err := db.Exec(schema); err != nil {
		tb.Fatal(err)
	}
	prepare := func(query string) *sql.Stmt {
		stmt, err := db.Prepare(query)
		if err != nil {
			tb.Fatal(err)
		}
		tb.Cleanup(func() {
			if err := stmt.Close(); err != nil {
				tb.Error(err)
			}
		})
		return stmt
	}
	return &oracle{
		store: prepare("INSERT OR REPLACE INTO t VALUES (1, ?1, ?1, ?1, ?1, ?1)"),
		load: prepare("SELECT typeof(b), b, typeof(t), t, typeof(n), n, typeof(i), i, typeof(r), r " +
			"FROM t WHERE id = 1"),
		compare: prepare("SELECT b = ?1, t = ?1, n = ?1, i = ?1, r = ?1 FROM t WHERE id = 1"),
	}
}

// stored returns what the columns hold, in the order of affinities, after v was written to each.
func (o *oracle) stored(tb testing.TB, v value.Value) (got [5]value.Value) {
	tb.Helper()
	if _, err := o.store.Exec(bind(v)); err != nil {
		tb.Fatal(err)
	}
	var kinds [5]string
	var values [5]any
	err := o.load.QueryRow().Scan(&kinds[0], &values[0], &kinds[1], &values[1], &kinds[2], &values[2],
		&kinds[3], &values[3], &kinds[4], &values[4])
	if err != nil {
		tb.Fatal(err)
	}
	for i := range got {
		got[i] = fromDriver(tb, kinds[i], values[i])
	}
	return got
}

func bind(v value.Value) any {
	switch v.Kind() {
	case value.KindInteger:
		return v.Integer()
	case value.KindReal:
		return v.Real()
	case value.KindText:
		return v.Text()
	case value.KindBlob:
		return append([]byte{}, v.Bytes()...) // not nil: that is NULL to the driver
	default:
		return nil
	}
}

func fromDriver(tb testing.TB, kind string, v any) value.Value {
	tb.Helper()
	switch x := v.(type) {
	case nil:
		if kind == "blob" {
			return value.Blob(nil)
		}
		return value.Null()
	case int64:
		return value.Integer(x)
	case float64:
		return value.Real(x)
	case string:
		return value.Text(x)
	case []byte:
		if kind == "text" {
			return value.TextBytes(x)
		}
		return value.Blob(x)
	default:
		tb.Fatalf("driver returned %T", v)
		return value.Null()
	}
}

func show(v value.Value) string {
	return fmt.Sprintf("%v %v %q", v.Kind(), bind(v), v.Bytes())
}

func checkStored(t *testing.T, o *oracle, v value.Value) {
	t.Helper()
	stored := o.stored(t, v)
	for i, a := range affinities {
		if got, want := a.affinity.Apply(v), stored[i]; !value.Equal(got, want) {
			t.Errorf("%s affinity applied to %s is %s, SQLite stores %s", a.name, show(v), show(got), show(want))
		}
	}
}

func TestApplyIsWhatSQLiteStores(t *testing.T) {
	o := newOracle(t)
	for _, v := range []value.Value{value.Null(), value.Blob(nil), value.Blob([]byte("12")), value.Text("")} {
		checkStored(t, o, v)
	}
	for _, i := range []int64{
		0, 1, -1, 10, 1 << 47, -1 << 47, 1<<53 - 1, 1 << 53, 1<<53 + 1, -1<<53 - 1, math.MaxInt64, math.MaxInt64 - 1,
		math.MaxInt64 - 1023, math.MinInt64, math.MinInt64 + 1,
	} {
		checkStored(t, o, value.Integer(i))
		checkStored(t, o, value.Text(strconv.FormatInt(i, 10)))
		checkStored(t, o, value.Text(strconv.FormatInt(i, 10)+".0"))
		checkStored(t, o, value.Text(strconv.FormatInt(i, 10)+"\x00x"))
		checkStored(t, o, value.Real(float64(i)))
	}
	for _, f := range []float64{
		math.Copysign(0, -1), 0.1, -0.1, 0.3, 1.5, 49.47, 100, 1e5, 123456789.125, 1e15, 1e16, 1e17, 1.5e17, 1e18, 9e18,
		-9223372036854774784, 9223372036854774784, -1 << 63, 1 << 63, 1e22, 1e23, 1e100, 1e-4, 1.25e-4, 1e-5, 1.5e-5, 1e-100,
		1.0 / 3, 2.0 / 3, 0.99999999999999989, 9.9999999999999982, 999999999999999.9, 9999999999999998, 99999999999999984,
		math.Pi, 9.769944023942e+229, 9.996693397057e+291, math.MaxFloat64, -math.MaxFloat64,
		math.SmallestNonzeroFloat64, 2.2250738585072014e-308,
		math.Inf(1), math.Inf(-1),
	} {
		checkStored(t, o, value.Real(f))
	}
	for _, s := range []string{
		"5", " 5", "5 ", "\t\n\v\f\r5\r", "+5", "-5", "- 5", "--5", "+-5", "05", "000000000000000000000000000005", "5.", ".5",
		"-.5", ".", "-", "+", " ", "5.0", "5.00", "5e0", "5E0", "5e", "5e+", "5e-", "5e+1", "5e-1", "5e5x",
		".e5", "5.e5", "e5",
		"0x10", "1_000", "inf", "Inf", "nan", "5a", "5 5", "a", "५", "\u00a05", "-0", "-0.0", "0e999", "1e999", "-1e999",
		"1e-999",
		"9223372036854775807", "9223372036854775808", "-9223372036854775808", "-9223372036854775809", "9223372036854775807.0",
		"18446744073709551615", "18446744073709551616", "1844674407370955160", "18446744073709551601",
		"1844674407370955161e1",
		"123456789012345678901234567890", "0.1234567890123456789012345", "12345678901234567.89012345", "1e+0000000000005",
		"3500000000000000.2500001", "9007199254740993", "9007199254740993.0", "9007199254740992.999999999999999999",
		"1e10000", "1e10001", "1e99999", "1e999990", "1e-99999", "4.9406564584124654e-324", "2.4703282292062327e-324",
		"2.4703282292062328e-324", "1.7976931348623157e308", "1.7976931348623158e308", "1.7976931348623159e308",
		"0.30000000000000004", "\x005", "5\x00", "5 \x00x", "5.5\x00x", "9007199254740993\x00", "\xff5", "5\xff",
	} {
		checkStored(t, o, value.Text(s))
	}
}

func TestApplyRandomNumbers(t *testing.T) {
	o := newOracle(t)
	rnd := rand.New(rand.NewPCG(1, 2))
	for range 4000 {
		f := math.Float64frombits(rnd.Uint64())
		if math.IsNaN(f) {
			continue
		}
		checkStored(t, o, value.Real(f))
		// Numbers as people write them: a few digits and a small exponent.
		short := float64(rnd.Int64N(1<<rnd.IntN(62)+1)) / math.Pow10(rnd.IntN(20))
		checkStored(t, o, value.Real(short))
		checkStored(t, o, value.Text(strconv.FormatFloat(f, 'g', rnd.IntN(25)-1, 64)))
		checkStored(t, o, value.Text(strconv.FormatFloat(short, 'f', rnd.IntN(25)-1, 64)))
	}
}

func TestApplyEveryExponent(t *testing.T) {
	o := newOracle(t)
	for exp := range uint64(2047) {
		for _, mantissa := range []uint64{1, 1<<52 - 1, 1 << (exp % 52)} {
			checkStored(t, o, value.Real(math.Float64frombits(exp<<52|mantissa)))
		}
	}
	for shift := range 52 {
		checkStored(t, o, value.Real(math.Float64frombits(1<<shift)))
	}
}

func FuzzApply(f *testing.F) {
	for _, s := range []string{"", "5", " -5.5e-3 ", "9223372036854775808", "1e400", "5\x006", ".5e", "0x1"} {
		f.Add([]byte(s), uint64(len(s)))
	}
	o := newOracle(f)
	f.Fuzz(func(t *testing.T, text []byte, bits uint64) {
		checkStored(t, o, value.TextBytes(text))
		checkStored(t, o, value.Real(math.Float64frombits(bits)))
	})
}

// A lookup of the applied value finds a row just where the comparison is true, unless Exact said otherwise.
func TestExact(t *testing.T) {
	o := newOracle(t)
	constants := []value.Value{
		value.Integer(5), value.Real(5), value.Real(0.1), value.Text("5"), value.Text("5.0"), value.Text("0.1"),
		value.Text("5e0"), value.Text("x"), value.Integer(1<<53 + 1), value.Text("9007199254740993"), value.Integer(1 << 53),
		value.Integer(math.MaxInt64), value.Integer(math.MinInt64), value.Real(1 << 63), value.Blob([]byte("5")),
	}
	inexact := 0
	for _, row := range constants {
		stored := o.stored(t, row)
		for _, constant := range constants {
			var equal [5]bool
			err := o.compare.QueryRow(bind(constant)).Scan(&equal[0], &equal[1], &equal[2], &equal[3], &equal[4])
			if err != nil {
				t.Fatal(err)
			}
			for i, a := range affinities {
				if !a.affinity.Exact(constant) {
					inexact++
					continue
				}
				if got := sameKey(a.affinity.Apply(constant), stored[i]); got != equal[i] {
					t.Errorf("%s column holding %s = %s: SQLite says %v, the applied value %v",
						a.name, show(stored[i]), show(constant), equal[i], got)
				}
			}
		}
	}
	if want := 3 * len(constants); inexact != want {
		t.Errorf("%d inexact comparisons, want %d: of 2^53+1 twice and of the greatest integer", inexact, want)
	}
}

// sameKey compares two stored values as an index does: numbers by value.
func sameKey(a, b value.Value) bool {
	return value.Equal(value.Numeric(keyNumber(a)), value.Numeric(keyNumber(b)))
}

// keyNumber keeps text from being read as a number.
func keyNumber(v value.Value) value.Value {
	if v.Kind() == value.KindText {
		return value.Blob(append([]byte("text "), v.Bytes()...))
	}
	return v
}

func TestAffinityOf(t *testing.T) {
	db, err := sql.Open("sqlite", ":memory:")
	if err != nil {
		t.Fatal(err)
	}
	db.SetMaxOpenConns(1)
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	for _, test := range []struct {
		declared string
		want     catalog.Affinity
	}{
		{"", catalog.AffinityBlob},
		{"INT", catalog.AffinityInteger},
		{"integer", catalog.AffinityInteger},
		{"UNSIGNED BIG INT", catalog.AffinityInteger},
		{"CHARINT", catalog.AffinityInteger},
		{"FLOATING POINT", catalog.AffinityInteger},
		{"VARCHAR(255)", catalog.AffinityText},
		{"NATIVE CHARACTER(70)", catalog.AffinityText},
		{"CLOB", catalog.AffinityText},
		{"TextBlob", catalog.AffinityText},
		{"BLOB", catalog.AffinityBlob},
		{"REAL BLOB", catalog.AffinityBlob},
		{"DOUBLE PRECISION", catalog.AffinityReal},
		{"Float", catalog.AffinityReal},
		{"REAL", catalog.AffinityReal},
		{"DECIMAL(10,5)", catalog.AffinityNumeric},
		{"BOOLEAN", catalog.AffinityNumeric},
		{"DATETIME", catalog.AffinityNumeric},
		{"STRING", catalog.AffinityNumeric},
		{"ANY", catalog.AffinityNumeric},
	} {
		t.Run(test.declared, func(t *testing.T) {
			if got := catalog.AffinityOf(test.declared); got != test.want {
				t.Errorf("got %d, want %d", got, test.want)
			}
			// '1e0' is stored as text, integer or real, and 1.5 and an integer tell the rest apart.
			_, err := db.Exec(fmt.Sprintf("DROP TABLE IF EXISTS t; CREATE TABLE t (c %s); INSERT INTO t VALUES ('1e0'), (1)",
				test.declared))
			if err != nil {
				t.Fatal(err)
			}
			var kinds string
			err = db.QueryRow("SELECT group_concat(typeof(c)) FROM (SELECT c FROM t ORDER BY rowid)").Scan(&kinds)
			if err != nil {
				t.Fatal(err)
			}
			want := map[catalog.Affinity]string{
				catalog.AffinityBlob:    "text,integer",
				catalog.AffinityText:    "text,text",
				catalog.AffinityNumeric: "integer,integer",
				catalog.AffinityInteger: "integer,integer",
				catalog.AffinityReal:    "real,real",
			}[test.want]
			if kinds != want {
				t.Errorf("SQLite stores %s, want %s", kinds, want)
			}
		})
	}
}
