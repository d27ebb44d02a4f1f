package bookmark_test

import (
	"cmp"
	"errors"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/nearside-dev/nearside/internal/bookmark"
)

func newCodec(tb testing.TB, key string) *bookmark.Codec {
	tb.Helper()
	c, err := bookmark.New([]byte(key))
	if err != nil {
		tb.Fatal(err)
	}
	return c
}

const testKey = "0123456789abcdef"

// Bookmarks outlive the process that gave them: this test fails when their form changes.
func TestFormat(t *testing.T) {
	c := newCodec(t, testKey)
	for _, test := range []struct {
		bookmark bookmark.Bookmark
		text     string
	}{
		{bookmark.Bookmark{}, "040000000000000000000000000er3v3vdc2uron"},
		{bookmark.Bookmark{DatabaseID: 1, Epoch: 2, Version: 3}, "04000001000000g000000000001knv41vm47cjkq"},
		{
			bookmark.Bookmark{DatabaseID: math.MaxUint32, Epoch: math.MaxUint32, Version: math.MaxUint64},
			"07vvvvvvvvvvvvvvvvvvvvvvvvvgejgg0j67bef2",
		},
	} {
		if got := c.Encode(test.bookmark); got != test.text || len(got) != bookmark.TextLength {
			t.Errorf("%+v is %s, want %s", test.bookmark, got, test.text)
		}
		if got := c.AppendEncode([]byte("before "), test.bookmark); string(got) != "before "+test.text {
			t.Errorf("%+v appended is %s", test.bookmark, got)
		}
		if got, err := c.Decode(test.text); err != nil || got != test.bookmark {
			t.Errorf("%s is %+v, error %v, want %+v", test.text, got, err, test.bookmark)
		}
	}
}

func TestShortKeyIsRefused(t *testing.T) {
	if _, err := bookmark.New([]byte(testKey[1:])); err == nil {
		t.Error("a key of 15 bytes is accepted")
	}
}

func TestKeyIsCopied(t *testing.T) {
	key := []byte(testKey)
	c := newCodec(t, testKey)
	d, err := bookmark.New(key)
	if err != nil {
		t.Fatal(err)
	}
	clear(key)
	if c.Encode(bookmark.Bookmark{}) != d.Encode(bookmark.Bookmark{}) {
		t.Error("changing the caller's key changes the codec")
	}
}

func TestDecodeRefuses(t *testing.T) {
	c := newCodec(t, testKey)
	text := c.Encode(bookmark.Bookmark{DatabaseID: 5, Epoch: 7, Version: 1234567890123})
	for _, test := range []struct {
		name, text string
		want       error
	}{
		{"empty", "", bookmark.ErrMalformed},
		{"short", text[1:], bookmark.ErrMalformed},
		{"long", text + "0", bookmark.ErrMalformed},
		{"padded", text + "======", bookmark.ErrMalformed},
		{"upper case", strings.ToUpper(text), bookmark.ErrMalformed},
		{"outside the alphabet", text[:39] + "w", bookmark.ErrMalformed},
		{"line break within", text[:20] + "\n" + text[21:], bookmark.ErrMalformed},
		{"line break after", text + "\n", bookmark.ErrMalformed},
		{"not ASCII", text[:38] + "\u00e9", bookmark.ErrMalformed},
		{"another format", "08" + text[2:], bookmark.ErrMalformed},
		{"another key", newCodec(t, "fedcba9876543210").Encode(bookmark.Bookmark{}), bookmark.ErrForged},
	} {
		t.Run(test.name, func(t *testing.T) {
			if b, err := c.Decode(test.text); !errors.Is(err, test.want) {
				t.Errorf("%q is %+v, error %v, want %v", test.text, b, err, test.want)
			}
		})
	}
}

// No text but the one that was given is accepted: each bit of it counts.
func TestEveryBitIsSigned(t *testing.T) {
	const alphabet = "0123456789abcdefghijklmnopqrstuv"
	c := newCodec(t, testKey)
	text := c.Encode(bookmark.Bookmark{DatabaseID: 5, Epoch: 7, Version: 1234567890123})
	for i := range text {
		digit := strings.IndexByte(alphabet, text[i])
		for bit := range 5 {
			other := text[:i] + string(alphabet[digit^1<<bit]) + text[i+1:]
			_, err := c.Decode(other)
			if !errors.Is(err, bookmark.ErrForged) && !errors.Is(err, bookmark.ErrMalformed) {
				t.Errorf("%s, changed from %s: error %v", other, text, err)
			}
		}
	}
}

func TestTextSortsAsBookmarks(t *testing.T) {
	c := newCodec(t, testKey)
	rnd := rand.New(rand.NewPCG(7, 8))
	var all []bookmark.Bookmark
	for range 2000 {
		all = append(all, bookmark.Bookmark{
			DatabaseID: rnd.Uint32() >> rnd.IntN(32),
			Epoch:      rnd.Uint32() >> rnd.IntN(32),
			Version:    rnd.Uint64() >> rnd.IntN(64),
		}, bookmark.Bookmark{DatabaseID: rnd.Uint32N(2), Epoch: rnd.Uint32N(2), Version: rnd.Uint64N(1000)})
	}
	slices.SortFunc(all, func(a, b bookmark.Bookmark) int {
		return cmp.Or(
			cmp.Compare(a.DatabaseID, b.DatabaseID), cmp.Compare(a.Epoch, b.Epoch), cmp.Compare(a.Version, b.Version))
	})
	all = slices.Compact(all)
	for i := 1; i < len(all); i++ {
		if a, b := c.Encode(all[i-1]), c.Encode(all[i]); a >= b {
			t.Fatalf("%s of %+v does not sort before %s of %+v", a, all[i-1], b, all[i])
		}
	}
}

func TestDecodeList(t *testing.T) {
	c := newCodec(t, testKey)
	a, b := bookmark.Bookmark{DatabaseID: 1, Version: 2}, bookmark.Bookmark{DatabaseID: 3, Epoch: 4, Version: 5}
	ta, tb := c.Encode(a), c.Encode(b)
	forged := newCodec(t, "fedcba9876543210").Encode(a)
	for _, test := range []struct {
		name, text string
		want       []bookmark.Bookmark
		err        error
	}{
		{"empty", "", nil, nil},
		{"blank", " \t", nil, nil},
		{"one", ta, []bookmark.Bookmark{a}, nil},
		{"two", ta + "," + tb, []bookmark.Bookmark{a, b}, nil},
		{"one database twice", ta + "," + ta, []bookmark.Bookmark{a, a}, nil},
		{"spaced", " " + tb + " ,\t" + ta + " ", []bookmark.Bookmark{b, a}, nil},
		{"too many", ta + "," + tb + "," + ta, nil, bookmark.ErrTooMany},
		{"too many commas", ",,", nil, bookmark.ErrTooMany},
		{"empty element", ta + ",", nil, bookmark.ErrMalformed},
		{"malformed", ta + "," + tb[1:], nil, bookmark.ErrMalformed},
		{"forged", ta + "," + forged, nil, bookmark.ErrForged},
		{"first error counts", forged + ",x", nil, bookmark.ErrForged},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, err := c.DecodeList(test.text, 2)
			if !errors.Is(err, test.err) || (err == nil) != (test.err == nil) || !slices.Equal(got, test.want) {
				t.Errorf("%+v, error %v, want %+v, error %v", got, err, test.want, test.err)
			}
		})
	}
}

func TestConcurrentUse(t *testing.T) {
	c := newCodec(t, testKey)
	var wg sync.WaitGroup
	for id := range uint32(8) {
		wg.Go(func() {
			for version := range uint64(500) {
				want := bookmark.Bookmark{DatabaseID: id, Version: version}
				if got, err := c.Decode(c.Encode(want)); err != nil || got != want {
					t.Errorf("%+v comes back as %+v, error %v", want, got, err)
					return
				}
			}
		})
	}
	wg.Wait()
}

func FuzzDecode(f *testing.F) {
	c := newCodec(f, testKey)
	f.Add(c.Encode(bookmark.Bookmark{DatabaseID: 1, Epoch: 2, Version: 3}))
	f.Add(strings.Repeat("0", bookmark.TextLength))
	f.Add(c.Encode(bookmark.Bookmark{}) + ", " + c.Encode(bookmark.Bookmark{Version: 9}))
	f.Fuzz(func(t *testing.T, text string) {
		if b, err := c.Decode(text); err == nil {
			if again := c.Encode(b); again != text {
				t.Fatalf("%q is accepted for %q", text, again)
			}
		} else if !errors.Is(err, bookmark.ErrMalformed) && !errors.Is(err, bookmark.ErrForged) {
			t.Fatalf("untyped error %v", err)
		}
		const limit = 4
		list, err := c.DecodeList(text, limit)
		switch {
		case err != nil && len(list) != 0, len(list) > limit:
			t.Fatalf("list of %d, error %v", len(list), err)
		case err == nil && len(list) == 0 && strings.Trim(text, " \t") != "":
			t.Fatalf("%q is taken for an empty list", text)
		}
	})
}

func FuzzRoundTrip(f *testing.F) {
	c := newCodec(f, testKey)
	f.Add(uint32(1), uint32(2), uint64(3))
	f.Fuzz(func(t *testing.T, database, epoch uint32, version uint64) {
		want := bookmark.Bookmark{DatabaseID: database, Epoch: epoch, Version: version}
		if got, err := c.Decode(c.Encode(want)); err != nil || got != want {
			t.Fatalf("%+v comes back as %+v, error %v", want, got, err)
		}
	})
}

func BenchmarkEncode(b *testing.B) {
	c := newCodec(b, testKey)
	b.ReportAllocs()
	for b.Loop() {
		c.Encode(bookmark.Bookmark{DatabaseID: 1, Epoch: 2, Version: 3})
	}
}

func BenchmarkAppendEncode(b *testing.B) {
	c := newCodec(b, testKey)
	buf := make([]byte, 0, bookmark.TextLength)
	b.ReportAllocs()
	for b.Loop() {
		buf = c.AppendEncode(buf[:0], bookmark.Bookmark{DatabaseID: 1, Epoch: 2, Version: 3})
	}
}

func BenchmarkDecode(b *testing.B) {
	c := newCodec(b, testKey)
	text := c.Encode(bookmark.Bookmark{DatabaseID: 1, Epoch: 2, Version: 3})
	b.ReportAllocs()
	for b.Loop() {
		if _, err := c.Decode(text); err != nil {
			b.Fatal(err)
		}
	}
}
