package gather

import "testing"

// TestReady asks how often it looks at those who wait, once before and once after each turn that it gives to others.
func TestReady(t *testing.T) {
	tests := []struct {
		name             string
		last, most       int
		waiting          func(look int) int
		fewest, greatest int // looks
	}{
		{"one caller", 1, 10, func(int) int { return 1 }, 1, 1},
		{"nobody, and few before", 0, 10, func(int) int { return 0 }, 1, 1},
		{"nobody comes", 5, 10, func(int) int { return 0 }, 2, 2},
		{"two wait, nobody comes", 0, 10, func(int) int { return 2 }, 2, 2},
		{"full", 5, 10, func(int) int { return 10 }, 1, 1},
		{"some come", 5, 10, func(look int) int { return min(look, 3) }, 2, 5},
		{"until it is full", 5, 10, func(look int) int { return look }, 2, 11},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			looks := 0
			Ready(tt.last, tt.most, func() int { looks++; return tt.waiting(looks - 1) })
			if looks < tt.fewest || looks > tt.greatest {
				t.Errorf("looked %d times, want %d to %d", looks, tt.fewest, tt.greatest)
			}
		})
	}
}
