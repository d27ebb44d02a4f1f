package access

import (
	"sync"
	"time"
)

// Backoff has names wait that have failed too often: for a while that doubles with each further failure. It does not know which
// names there are, so it tells nothing about them. It may be used concurrently.
type Backoff struct {
	clock func() time.Time
	free  int

	mu    sync.Mutex
	names map[string]*failures
}

type failures struct {
	count int
	until time.Time
}

// How long names wait, and how many are kept: a new one takes the place of any other, which then begins anew.
const (
	firstWait    = 15 * time.Second
	LongestWait  = 15 * time.Minute
	MaxBackedOff = 10_000
)

// DefaultFreeFailures is how many failed log-ins an address has before it waits: many people may have one address.
const DefaultFreeFailures = 30

// NewBackoff returns a Backoff whose names wait from the free-th failure on.
func NewBackoff(clock func() time.Time, free int) *Backoff {
	return &Backoff{clock: clock, free: free, names: make(map[string]*failures)}
}

// Wait returns how long a name has to wait still, 0 for not at all.
func (b *Backoff) Wait(name string) time.Duration {
	b.mu.Lock()
	defer b.mu.Unlock()
	f := b.names[name]
	if f == nil {
		return 0
	}
	return max(0, f.until.Sub(b.clock()))
}

// Failed counts a failure of a name. Those of a name that has not failed for LongestWait are forgotten.
func (b *Backoff) Failed(name string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	f := b.names[name]
	if f == nil {
		if len(b.names) >= MaxBackedOff {
			for other := range b.names {
				delete(b.names, other)
				break
			}
		}
		f = &failures{}
		b.names[name] = f
	}
	now := b.clock()
	if f.count > 0 && now.Sub(f.until) > LongestWait {
		f.count = 0
	}
	f.count++
	f.until = now
	if over := f.count - b.free; over >= 0 {
		f.until = now.Add(min(firstWait<<min(over, 10), LongestWait))
	}
}

// Forget forgets a name's failures.
func (b *Backoff) Forget(name string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.names, name)
}

// Names returns how many names are kept.
func (b *Backoff) Names() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.names)
}
