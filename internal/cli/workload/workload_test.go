package workload

import (
	"math/rand/v2"
	"testing"
)

func TestMix(t *testing.T) {
	for text, want := range map[string]Mix{
		"get=100": {100}, "write=5, get=95": {95, 0, 0, 0, 5}, DefaultMix.String(): DefaultMix,
		"get=20,batch=20,list=20,query=20,write=20": {20, 20, 20, 20, 20},
	} {
		if got, err := ParseMix(text); got != want || err != nil {
			t.Errorf("%s: %v, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "get", "get=", "get=101", "get=50", "get=50,get=50", "put=100", "get=110,write=-10", "get=1e2"} {
		if m, err := ParseMix(text); err == nil {
			t.Errorf("%q is %v", text, m)
		}
	}
}

// TestDraw: keys are in range; with zipf few of them are most of what is drawn, and they are not neighbours.
func TestDraw(t *testing.T) {
	const keys, draws = 1000, 100_000
	for _, zipf := range []float64{0, 1.1} {
		w := &Workload{Keys: keys, Zipf: zipf}
		key := w.draw(rand.New(rand.NewPCG(1, 2)))
		counts := make([]int, keys)
		for range draws {
			counts[key()]++
		}
		most, at := 0, 0
		for i, n := range counts {
			if n > most {
				most, at = n, i
			}
		}
		if skewed := most > draws/20; skewed != (zipf > 0) {
			t.Errorf("zipf %v: the most popular key has %d of %d", zipf, most, draws)
		}
		if zipf > 0 && at > 0 && counts[at-1] > most/10 {
			t.Errorf("zipf %v: neighbours %d and %d", zipf, counts[at-1], most)
		}
	}
	for _, n := range []int{1, 2} {
		if key := (&Workload{Keys: n, Zipf: 2}).draw(rand.New(rand.NewPCG(1, 2))); key() >= int64(n) {
			t.Errorf("out of %d keys", n)
		}
	}
}

func FuzzParseMix(f *testing.F) {
	f.Add("get=95,write=5")
	f.Add("get==1,")
	f.Fuzz(func(t *testing.T, text string) {
		m, err := ParseMix(text)
		if err != nil {
			return
		}
		if again, err := ParseMix(m.String()); err != nil || again != m {
			t.Errorf("%q: %v reads back as %v, %v", text, m, again, err)
		}
	})
}
