package rowcodec_test

import (
	"bytes"
	"errors"
	"math"
	"testing"

	"github.com/zeebo/xxh3"

	"github.com/nearside-dev/nearside/internal/rowcodec"
)

func TestSumArithmetic(t *testing.T) {
	const top = math.MaxUint64
	for _, test := range []struct{ a, b, sum rowcodec.Sum }{
		{rowcodec.Sum{}, rowcodec.Sum{}, rowcodec.Sum{}},
		{rowcodec.Sum{Hi: 1, Lo: 2}, rowcodec.Sum{Hi: 3, Lo: 4}, rowcodec.Sum{Hi: 4, Lo: 6}},
		{rowcodec.Sum{Lo: top}, rowcodec.Sum{Lo: 1}, rowcodec.Sum{Hi: 1}},
		{rowcodec.Sum{Hi: top, Lo: top}, rowcodec.Sum{Lo: 1}, rowcodec.Sum{}},
		{rowcodec.Sum{Hi: top, Lo: 5}, rowcodec.Sum{Hi: 2, Lo: top}, rowcodec.Sum{Hi: 2, Lo: 4}},
	} {
		if got := test.a.Add(test.b); got != test.sum {
			t.Errorf("%v + %v = %v, want %v", test.a, test.b, got, test.sum)
		}
		if got := test.sum.Sub(test.b); got != test.a {
			t.Errorf("%v - %v = %v, want %v", test.sum, test.b, got, test.a)
		}
	}
}

func TestSumForms(t *testing.T) {
	s := rowcodec.Sum{Hi: 0x0123456789abcdef, Lo: 0x02}
	if got, want := s.String(), "0123456789abcdef0000000000000002"; got != want {
		t.Errorf("String is %s, want %s", got, want)
	}
	b, err := s.AppendBinary([]byte("before"))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := rowcodec.ParseSum(b[len("before"):]); err != nil || got != s {
		t.Errorf("%x parses to %v, error %v", b, got, err)
	}
	for _, n := range []int{0, 15, 17} {
		if _, err := rowcodec.ParseSum(make([]byte, n)); !errors.Is(err, rowcodec.ErrCorrupt) {
			t.Errorf("%d bytes: error %v", n, err)
		}
	}
}

// Sums tell apart rows whose bytes are divided otherwise between table, key and value, of every size class of the hash.
func TestRowSumFrames(t *testing.T) {
	data := bytes.Repeat([]byte("0123456789abcdef"), 100)
	seen := map[rowcodec.Sum]bool{}
	rows := 0
	for _, table := range []uint32{1, 1 << 24} {
		for _, size := range []int{0, 1, 16, 100, 240, 503, 504, 505, 1024, 1600} {
			for _, key := range []int{0, 1, 9, 250, 1500} {
				if key > size {
					continue
				}
				s := rowcodec.RowSum(table, data[:key], data[key:size])
				if s != rowcodec.RowSum(table, bytes.Clone(data[:key]), bytes.Clone(data[key:size])) {
					t.Fatalf("sum of %d+%d bytes differs between calls", key, size-key)
				}
				seen[s] = true
				rows++
			}
		}
	}
	if len(seen) != rows {
		t.Errorf("%d sums of %d rows", len(seen), rows)
	}
}

// Rows of every size have the documented hash, though great ones are hashed piece by piece.
func TestRowSumIsTheHashOfTheFrame(t *testing.T) {
	for _, size := range []int{0, 1, 503, 504, 505, 5000} {
		key, val := []byte("key"), bytes.Repeat([]byte{0xa5}, size)
		frame := append([]byte{0, 0, 1, 7, 0, 0, 0, 3}, "key"...)
		want := rowcodec.Sum(xxh3.Hash128(append(frame, val...)))
		if got := rowcodec.RowSum(1<<8|7, key, val); got != want {
			t.Errorf("sum of a value of %d bytes is %v, want %v", size, got, want)
		}
	}
}
