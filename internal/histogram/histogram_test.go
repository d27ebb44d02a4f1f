package histogram

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

func TestQuantile(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	var a, b, all Histogram
	var values []time.Duration
	for i := range 100_000 {
		d := time.Duration(math.Exp(random.Float64() * 30))
		values = append(values, d)
		if i%2 == 0 {
			a.Record(d)
		} else {
			b.Record(d)
		}
	}
	all.Merge(&a)
	all.Merge(&b)
	if all.Count() != uint64(len(values)) {
		t.Fatalf("count %d, want %d", all.Count(), len(values))
	}
	slices.Sort(values)
	for _, q := range []float64{0, 0.001, 0.5, 0.9, 0.99, 0.999, 1} {
		want := values[max(int(math.Ceil(q*float64(len(values)))), 1)-1]
		got := all.Quantile(q)
		if got < want || float64(got) > float64(want)*(1+1.0/perPower) {
			t.Errorf("quantile %v is %d, want %d", q, got, want)
		}
	}
}

func TestEdges(t *testing.T) {
	var empty Histogram
	if got := empty.Quantile(0.5); got != 0 {
		t.Errorf("quantile of nothing is %v", got)
	}
	for _, d := range []time.Duration{-1, 0, 1, 127, 128, 129, math.MaxInt64} {
		var h Histogram
		h.Record(d)
		want := max(d, 0)
		if got := h.Quantile(1); got < want || float64(got) > float64(want)*(1+1.0/perPower) {
			t.Errorf("%d comes back as %d", d, got)
		}
	}
	for i := range buckets {
		if got := bucket(highest(i)); got != i {
			t.Fatalf("the highest value of bucket %d is in bucket %d", i, got)
		}
	}
}
