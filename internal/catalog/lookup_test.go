package catalog_test

import (
	"testing"

	"github.com/nearside-dev/nearside/internal/catalog"
)

func TestFold(t *testing.T) {
	for in, want := range map[string]string{"": "", "abc": "abc", "aBc": "abc", "ÄB": "Äb", "\u212a": "\u212a", "\xffA": "\xffa", "Z": "z"} {
		if got := catalog.Fold(in); got != want {
			t.Errorf("%q: %q", in, got)
		}
	}
	if n := testing.AllocsPerRun(100, func() { catalog.Fold("orders") }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestSameName(t *testing.T) {
	for _, test := range []struct {
		a, b string
		want bool
	}{{"Orders", "oRDERS", true}, {"É", "é", false}, {"\u212a", "k", false}, {"a", "ab", false}, {"\xff", "\xfe", false}} {
		if got := catalog.SameName(test.a, test.b); got != test.want {
			t.Errorf("%q, %q: %v", test.a, test.b, got)
		}
	}
}
