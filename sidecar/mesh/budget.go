package mesh

import (
	"sync"
	"time"
)

// Of the calls at most a fifth are repeated, and always three a second.
const (
	budgetRatio     = 0.2
	budgetPerSecond = 3.0
	budgetMax       = 100.0
	maxTries        = 3 // of a call
)

// budget bounds how many calls are repeated, so that repeating does not make of a small trouble a large one.
type budget struct {
	mu     sync.Mutex
	tokens float64
	at     time.Time
}

// earn notes a call.
func (b *budget) earn() {
	b.mu.Lock()
	b.tokens = min(budgetMax, b.tokens+budgetRatio)
	b.mu.Unlock()
}

// spend reports whether a call may be repeated.
func (b *budget) spend(now time.Time) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.at.IsZero() {
		b.tokens += now.Sub(b.at).Seconds() * budgetPerSecond
	} else {
		b.tokens += budgetPerSecond
	}
	b.at, b.tokens = now, min(budgetMax, b.tokens)
	if b.tokens < 1-1e-9 { // five fifths make a little less than one
		return false
	}
	b.tokens--
	return true
}
