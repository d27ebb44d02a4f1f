package readpath

import (
	"sync"
	"testing"
	"time"
)

// TestPace has statements be answered in time or not, and asks how often they are tried.
func TestPace(t *testing.T) {
	tests := []struct {
		name        string
		miss        func(try int) bool
		hopeless    bool
		least, most int // tries of 100,000 calls, a millisecond apart
	}{
		{"always quick", func(int) bool { return false }, false, 100_000, 100_000},
		{"a hiccup in fifty", func(try int) bool { return try%50 == 0 }, false, 100_000, 100_000},
		{"never quick", func(int) bool { return true }, false, 16, 150},
		{"too large", func(int) bool { return true }, true, 2, 10},
		{"quick once it is known", func(try int) bool { return try < 40 }, false, 80_000, 99_999},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var p pace
			now, tries := time.Unix(1000, 0), 0
			for range 100_000 {
				now = now.Add(time.Millisecond)
				if p.slow(now) {
					continue
				}
				if tt.miss(tries) {
					p.missed(now, tt.hopeless)
				} else {
					p.answered()
				}
				tries++
			}
			if tries < tt.least || tries > tt.most {
				t.Errorf("tried %d times, want %d to %d", tries, tt.least, tt.most)
			}
		})
	}
}

// TestPaceOfMany has many callers note answers at once: none makes room for failures that come later.
func TestPaceOfMany(t *testing.T) {
	var p pace
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for range 20_000 {
				p.missed(time.Unix(1000, 0), false)
				for range 2 * paceMiss {
					p.answered()
					if score := p.score.Load(); score < 0 {
						t.Errorf("score %d", score)
						return
					}
				}
			}
		})
	}
	all.Wait()
}

// TestPaceAfterTheClockWasSetBack tries a statement again that was left alone until a time that is far away now.
func TestPaceAfterTheClockWasSetBack(t *testing.T) {
	var p pace
	now := time.Unix(100_000, 0)
	p.missed(now, true)
	if !p.slow(now) || p.slow(now.Add(-time.Hour)) || p.slow(now.Add(time.Hour)) {
		t.Error(p.slow(now), p.slow(now.Add(-time.Hour)), p.slow(now.Add(time.Hour)))
	}
}
