package value_test

import (
	"math"
	"testing"

	"github.com/nearside-dev/nearside/internal/value"
)

// That these are SQLite's conversions is tested against SQLite in internal/catalog.

func TestNumeric(t *testing.T) {
	for _, test := range []struct{ in, want value.Value }{
		{value.Null(), value.Null()},
		{value.Integer(math.MinInt64), value.Integer(math.MinInt64)},
		{value.Real(-2), value.Integer(-2)},
		{value.Real(2.5), value.Real(2.5)},
		{value.Real(1 << 63), value.Real(1 << 63)},
		{value.Text(" 9007199254740993 "), value.Integer(9007199254740993)},
		{value.Text("1e3"), value.Integer(1000)},
		{value.Text("-.25"), value.Real(-0.25)},
		{value.Text("1e400"), value.Real(math.Inf(1))},
		{value.Text("0x10"), value.Text("0x10")},
		{value.Text(""), value.Text("")},
		{value.Blob([]byte("1")), value.Blob([]byte("1"))},
	} {
		if got := value.Numeric(test.in); !value.Equal(got, test.want) {
			t.Errorf("%v %q becomes %+v, want %+v", test.in.Kind(), test.in.Bytes(), got, test.want)
		}
	}
}

func TestAppendReal(t *testing.T) {
	for f, want := range map[float64]string{
		0:                      "x0.0",
		1:                      "x1.0",
		-0.5:                   "x-0.5",
		49.47:                  "x49.47",
		0.0001:                 "x0.0001",
		0.00001:                "x1.0e-05",
		0.30000000000000004:    "x0.30000000000000004",
		1e16:                   "x10000000000000000.0",
		1e17:                   "x1.0e+17",
		-math.MaxFloat64:       "x-1.7976931348623157e+308",
		9007199254740993:       "x9007199254740992.0",
		math.Inf(1):            "xInf",
		math.Inf(-1):           "x-Inf",
		math.Nextafter(1, 0):   "x0.99999999999999989",
		math.Nextafter(1e7, 0): "x9999999.9999999981",
	} {
		if got := string(value.AppendReal([]byte("x"), f)); got != want {
			t.Errorf("%g is %s, want %s", f, got, want)
		}
	}
}

func BenchmarkNumeric(b *testing.B) {
	for _, text := range []string{"12345", "123.45", "not a number"} {
		b.Run(text, func(b *testing.B) {
			v := value.Text(text)
			b.ReportAllocs()
			for b.Loop() {
				value.Numeric(v)
			}
		})
	}
}

func BenchmarkAppendReal(b *testing.B) {
	var buf []byte
	b.ReportAllocs()
	for b.Loop() {
		buf = value.AppendReal(buf[:0], 49.47)
	}
}
