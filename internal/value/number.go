package value

import (
	"bytes"
	"math"
	"math/big"
	"math/bits"
	"strconv"
	"sync"
)

// Numeric returns v as SQLite stores it in a column of NUMERIC or INTEGER affinity: text that is a well-formed number
// becomes that number, a real that is an exact integer becomes an INTEGER, anything else is returned unchanged.
//
// As in SQLite, white space around a number is ignored, hexadecimal and names such as "inf" are not numbers, what
// follows a NUL byte is not looked at, and only the first 19 significant digits of a real count.
func Numeric(v Value) Value {
	switch v.kind {
	case KindReal:
		return demote(v.Real())
	case KindText:
		if d, ok := parseDecimal(v.bytes); ok {
			return d.value(bytes.IndexByte(v.bytes, 0) < 0)
		}
	default:
	}
	return v
}

// maxDemoted is the greatest magnitude at which SQLite turns a real into an integer.
const maxDemoted = 1<<63 - 1024

func demote(f float64) Value {
	if math.Abs(f) <= maxDemoted && f == math.Trunc(f) {
		return Integer(int64(f))
	}
	return Real(f)
}

// decimal is a number as SQLite reads it, ±mantissa × 10^exp.
type decimal struct {
	mantissa uint64
	exp      int
	negative bool
	integral bool // written without a point and without an exponent
}

// mantissaFull is where SQLite stops taking digits into its 64-bit mantissa.
const mantissaFull = (math.MaxUint64 - 9) / 10

// maxExponent is where SQLite stops reading an exponent: all beyond is zero or infinite.
const maxExponent = 10_000

const space = " \t\n\v\f\r"

// parseDecimal reads text, which must be a number and nothing else but white space up to its end or first NUL.
func parseDecimal(text []byte) (d decimal, ok bool) {
	if i := bytes.IndexByte(text, 0); i >= 0 {
		text = text[:i]
	}
	s := bytes.Trim(text, space)
	if len(s) > 0 && (s[0] == '-' || s[0] == '+') {
		d.negative = s[0] == '-'
		s = s[1:]
	}
	d.integral = true
	digits := 0
	for ; len(s) > 0 && isDigit(s[0]); s = s[1:] {
		digits++
		if d.mantissa < mantissaFull {
			d.mantissa = d.mantissa*10 + uint64(s[0]-'0')
		} else {
			d.exp++
		}
	}
	if len(s) > 0 && s[0] == '.' {
		d.integral = false
		for s = s[1:]; len(s) > 0 && isDigit(s[0]); s = s[1:] {
			digits++
			if d.mantissa < mantissaFull {
				d.mantissa = d.mantissa*10 + uint64(s[0]-'0')
				d.exp--
			}
		}
	}
	if digits == 0 {
		return d, false
	}
	if len(s) > 0 && (s[0] == 'e' || s[0] == 'E') {
		d.integral = false
		return d, d.parseExponent(s[1:])
	}
	return d, len(s) == 0
}

func (d *decimal) parseExponent(s []byte) bool {
	sign := 1
	if len(s) > 0 && (s[0] == '-' || s[0] == '+') {
		if s[0] == '-' {
			sign = -1
		}
		s = s[1:]
	}
	if len(s) == 0 {
		return false
	}
	exp := 0
	for ; len(s) > 0 && isDigit(s[0]); s = s[1:] {
		if exp < maxExponent {
			exp = exp*10 + int(s[0]-'0')
		} else {
			exp = maxExponent
		}
	}
	d.exp += sign * exp
	return len(s) == 0
}

func isDigit(c byte) bool { return c >= '0' && c <= '9' }

// value returns the number. whole says that the text had no NUL: SQLite reads integers that a float64 cannot hold from
// the whole text, so that one with a NUL goes through the float64.
func (d *decimal) value(whole bool) Value {
	if d.integral && d.exp == 0 && whole {
		switch {
		case d.mantissa <= math.MaxInt64 && d.negative:
			return Integer(-int64(d.mantissa))
		case d.mantissa <= math.MaxInt64:
			return Integer(int64(d.mantissa))
		case d.mantissa == 1<<63 && d.negative:
			return Integer(math.MinInt64)
		}
	}
	f := scale(d.mantissa, d.exp)
	if d.negative {
		f = -f
	}
	return demote(f)
}

// scale returns the float64 nearest to mantissa × 10^exp, infinite or zero where that is out of range. SQLite computes
// the same in 160-bit integers.
func scale(mantissa uint64, exp int) float64 {
	var buf [32]byte
	b := strconv.AppendUint(buf[:0], mantissa, 10)
	b = append(b, 'e')
	b = strconv.AppendInt(b, int64(exp), 10)
	f, _ := strconv.ParseFloat(string(b), 64) // the only error possible is the range's, and f is then what SQLite has
	return f
}

// AppendReal appends f as SQLite converts a REAL to TEXT ("%!.17g", shortened where that still reads back as f) and
// returns the extended buffer. f is not NaN.
func AppendReal(dst []byte, f float64) []byte {
	if f < 0 {
		dst = append(dst, '-')
		f = -f
	}
	switch {
	case f == 0:
		return append(dst, "0.0"...)
	case math.IsInf(f, 1):
		return append(dst, "Inf"...)
	}
	var buf [24]byte
	digits, point := realDigits(buf[:], f)
	switch {
	case point < -3 || point > 17:
		dst = append(dst, digits[0], '.')
		dst = appendFraction(dst, digits[1:])
		return appendExponent(dst, point-1)
	case point <= 0:
		dst = append(dst, "0.000"[:2-point]...)
		return append(dst, digits...)
	case point >= len(digits):
		dst = append(dst, digits...)
		for range point - len(digits) {
			dst = append(dst, '0')
		}
		return append(dst, ".0"...)
	default:
		dst = append(dst, digits[:point]...)
		dst = append(dst, '.')
		return append(dst, digits[point:]...)
	}
}

func appendFraction(dst, digits []byte) []byte {
	if len(digits) == 0 {
		return append(dst, '0')
	}
	return append(dst, digits...)
}

func appendExponent(dst []byte, exp int) []byte {
	sign := byte('+')
	if exp < 0 {
		sign, exp = '-', -exp
	}
	dst = append(dst, 'e', sign)
	if exp < 10 {
		dst = append(dst, '0')
	}
	return strconv.AppendInt(dst, int64(exp), 10)
}

// realDigits returns the significant digits of f > 0, without trailing zeros, and where the decimal point stands: f is
// about 0.digits × 10^point. The digits are in buf.
//
// They are SQLite's digits, which are not always the nearest ones: it makes 18 or 19 from the upper half of one 64-bit
// product and rounds those to 17 or, if the number is then still f, to fewer than 15.
func realDigits(buf []byte, f float64) (digits []byte, point int) {
	d, exp := binaryToDecimal(f)
	z := strconv.AppendUint(buf[1:1], d, 10) // buf[0] is for a carry
	n := len(z)
	point = n + exp
	keep := 17
	switch {
	case z[14] == '9' && z[15] == '9':
		j := 14
		for j > 0 && z[j-1] == '9' {
			j--
		}
		if scale(leading(z[:j])+1, exp+n-j) == f {
			keep = j + 1
		}
	case point >= n || z[13] == '0' && z[14] == '0' && z[15] == '0':
		j := 13
		for z[j-1] == '0' { // ends: z[0] is not zero
			j--
		}
		if scale(leading(z[:j]), exp+n-j) == f {
			keep = j + 1
		}
	}
	roundUp := z[keep] >= '5'
	z = z[:keep]
	if roundUp {
		i := keep - 1
		for i >= 0 && z[i] == '9' {
			z[i] = '0'
			i--
		}
		if i >= 0 {
			z[i]++
		} else {
			buf[0] = '1'
			z = buf[:keep+1]
			point++
		}
	}
	return bytes.TrimRight(z, "0"), point
}

func leading(digits []byte) (n uint64) {
	for _, c := range digits {
		n = n*10 + uint64(c-'0')
	}
	return n
}

// binaryToDecimal returns 18 or 19 digits d such that f is about d × 10^exp.
func binaryToDecimal(f float64) (d uint64, exp int) {
	b := math.Float64bits(f)
	m := b & (1<<52 - 1)
	e := int(b >> 52)
	if e == 0 {
		shift := bits.LeadingZeros64(m)
		m <<= shift
		e = -1074 - shift
	} else {
		m = m<<11 | 1<<63
		e -= 1086
	}
	// f is m × 2^e with m's highest bit set; log10(2) and log2(10) below are exact enough for every exponent there is.
	p := 17 - ((e+63)*78913)>>18
	h, _ := bits.Mul64(m, powersOfTen()[p-minPower])
	h >>= -(e + (p*108853)>>15 + 2)
	return (h + h&1<<1) >> 1, -p
}

const (
	minPower = -290
	maxPower = 341
)

// powersOfTen holds the uppermost 64 bits of each power of ten, from minPower to maxPower.
var powersOfTen = sync.OnceValue(func() *[maxPower - minPower + 1]uint64 {
	var t [maxPower - minPower + 1]uint64
	ten := big.NewInt(10)
	for p := minPower; p <= maxPower; p++ {
		x := new(big.Int)
		if p >= 0 {
			x.Exp(ten, big.NewInt(int64(p)), nil).Lsh(x, 64)
		} else {
			x.Exp(ten, big.NewInt(int64(-p)), nil)
			x.Div(new(big.Int).Lsh(big.NewInt(1), uint(x.BitLen()+64)), x)
		}
		t[p-minPower] = x.Rsh(x, uint(x.BitLen()-64)).Uint64()
	}
	return &t
})
