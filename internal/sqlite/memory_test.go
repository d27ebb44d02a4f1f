//go:build memory.counters

package sqlite

import (
	"testing"

	"modernc.org/libc"
)

// The allocator counts only with this build tag: go test -tags memory.counters -run TestNoLeak.
func TestNoLeak(t *testing.T) {
	used := func() libc.MemAllocatorStat {
		churn(t, 20)
		return libc.MemStat()
	}
	used() // what SQLite keeps for the process
	before := used()
	if before.Allocs == 0 {
		t.Fatal("the allocator does not count")
	}
	t.Run("churn", func(t *testing.T) { churn(t, 1000) })
	after := used()
	// Each churn leaves one connection to the test's cleanup: allow for that one, not for 1000.
	if n := after.Allocs - before.Allocs; n > 500 {
		t.Errorf("%d blocks leaked", n)
	}
	if n := after.Bytes - before.Bytes; n > 256<<10 {
		t.Errorf("%d bytes leaked", n)
	}
}
