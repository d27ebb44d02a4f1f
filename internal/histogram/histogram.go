// Package histogram counts durations in buckets whose width grows with their value, so that quantiles are within 1.6 % from
// nanoseconds to hours, in 30 KiB and without an allocation for each value.
package histogram

import (
	"math"
	"math/bits"
	"time"
)

// Values below 2 × perPower have a bucket each; each further power of two is divided into perPower buckets.
const (
	perPowerBits = 6
	perPower     = 1 << perPowerBits
	buckets      = (64-perPowerBits-1)*perPower + 2*perPower
)

// Histogram counts durations. The zero value is empty. It is for one goroutine at a time.
type Histogram struct {
	counts [buckets]uint64
	total  uint64
}

// Record counts a duration; a negative one counts as 0.
func (h *Histogram) Record(d time.Duration) {
	h.counts[bucket(uint64(max(d, 0)))]++
	h.total++
}

// Merge adds what another histogram has counted.
func (h *Histogram) Merge(other *Histogram) {
	for i, n := range other.counts {
		h.counts[i] += n
	}
	h.total += other.total
}

// Count returns how many durations were recorded.
func (h *Histogram) Count() uint64 { return h.total }

// Quantile returns a duration that the fraction q, from 0 to 1, of those recorded does not exceed; 0 if there are none. It is
// the upper end of its bucket.
func (h *Histogram) Quantile(q float64) time.Duration {
	rank := max(uint64(math.Ceil(q*float64(h.total))), 1)
	var seen uint64
	for i, n := range h.counts {
		if seen += n; n > 0 && seen >= rank {
			return time.Duration(min(highest(i), math.MaxInt64))
		}
	}
	return 0
}

func bucket(v uint64) int {
	shift := max(bits.Len64(v)-perPowerBits-1, 0)
	return shift*perPower + int(v>>shift)
}

// highest returns the greatest value of a bucket.
func highest(i int) uint64 {
	if i < 2*perPower {
		return uint64(i)
	}
	shift := i/perPower - 1
	return (uint64(i-shift*perPower)+1)<<shift - 1
}
