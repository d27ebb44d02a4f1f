package sqlite

import (
	"sync"
	"sync/atomic"
)

const (
	slotChunk  = 64
	slotChunks = 256
)

// slots gives Go values small integer handles that SQLite can hold as a callback's context argument. Go pointers must not
// be hidden from the collector in SQLite's memory, and a map would need a lock on every callback. get takes no lock; put
// and drop do. It holds at most slotChunk*slotChunks values.
type slots[T any] struct {
	chunks [slotChunks]atomic.Pointer[[slotChunk]atomic.Pointer[T]]

	mu   sync.Mutex
	free []int // handed back
	next int   // never used so far
}

// put stores v and returns its handle, never 0, or false if the table is full.
func (s *slots[T]) put(v *T) (uintptr, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var i int
	if n := len(s.free); n > 0 {
		i, s.free = s.free[n-1], s.free[:n-1]
	} else {
		if s.next == slotChunk*slotChunks {
			return 0, false
		}
		i = s.next
		s.next++
		if i%slotChunk == 0 {
			s.chunks[i/slotChunk].Store(new([slotChunk]atomic.Pointer[T]))
		}
	}
	s.chunks[i/slotChunk].Load()[i%slotChunk].Store(v)
	return uintptr(i + 1), true
}

// get returns the value of a handle that put returned and that was not dropped.
func (s *slots[T]) get(handle uintptr) *T {
	i := handle - 1
	return s.chunks[i/slotChunk].Load()[i%slotChunk].Load()
}

// drop forgets a handle, which put may then return again.
func (s *slots[T]) drop(handle uintptr) {
	s.mu.Lock()
	defer s.mu.Unlock()
	i := int(handle - 1)
	s.chunks[i/slotChunk].Load()[i%slotChunk].Store(nil)
	s.free = append(s.free, i)
}

// len returns how many values the table holds.
func (s *slots[T]) len() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.next - len(s.free)
}
