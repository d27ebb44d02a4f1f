package edgesql

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"sort"
)

// headSize is how many bytes of a key are compared as one number.
const headSize = 8

// keySet are encoded keys in their order, no two of them alike. It is immutable.
//
// A key is what all keys begin with, then a head of eight bytes, with zeros behind its end, then a tail. Numbers are compared
// much faster than bytes are, and among the keys of a table most differ there.
type keySet struct {
	prefix []byte
	heads  []uint64
	fixed  int      // the length of all keys where heads hold all of them; else 0
	ends   []uint32 // else the end of each key in whole
	whole  []byte
}

// keyList gathers the keys of a set.
type keyList struct {
	ends  []uint32
	whole []byte
}

// maxKeyBytes bounds what a keyList holds: places in it are 32 bits.
const maxKeyBytes = 1<<32 - 1

// add appends a key greater than all before; ok is false where there is no room.
func (l *keyList) add(key []byte) (ok bool) {
	if len(key) > maxKeyBytes-len(l.whole) {
		return false
	}
	l.whole = append(l.whole, key...)
	l.ends = append(l.ends, uint32(len(l.whole)))
	return true
}

func (l *keyList) key(i int) []byte {
	from := uint32(0)
	if i > 0 {
		from = l.ends[i-1]
	}
	return l.whole[from:l.ends[i]]
}

// set returns the keys that were added. The list must not be used any more.
func (l *keyList) set() keySet {
	n := len(l.ends)
	if n == 0 {
		return keySet{}
	}
	first, last := l.key(0), l.key(n-1)
	common := 0
	for common < min(len(first), len(last)) && first[common] == last[common] {
		common++
	}
	s := keySet{prefix: bytes.Clone(first[:common]), heads: make([]uint64, n), fixed: len(first)}
	for i := range s.heads {
		key := l.key(i)
		s.heads[i] = head(key[common:])
		if len(key) != s.fixed || len(key) > common+headSize {
			s.fixed = 0
		}
	}
	if s.fixed == 0 {
		s.ends, s.whole = l.ends, l.whole
	}
	return s
}

func head(b []byte) uint64 {
	if len(b) >= headSize {
		return binary.BigEndian.Uint64(b)
	}
	var padded [headSize]byte
	copy(padded[:], b)
	return binary.BigEndian.Uint64(padded[:])
}

func (s *keySet) len() int { return len(s.heads) }

// size returns the memory that the set takes.
func (s *keySet) size() int { return 8*cap(s.heads) + 4*cap(s.ends) + cap(s.whole) }

// appendKey appends key i.
func (s *keySet) appendKey(dst []byte, i int) []byte {
	if s.fixed > 0 {
		dst = append(dst, s.prefix...)
		var b [headSize]byte
		binary.BigEndian.PutUint64(b[:], s.heads[i])
		return append(dst, b[:s.fixed-len(s.prefix)]...)
	}
	return append(dst, s.key(i)...)
}

// key returns key i of a set whose heads do not hold it.
func (s *keySet) key(i int) []byte {
	from := uint32(0)
	if i > 0 {
		from = s.ends[i-1]
	}
	return s.whole[from:s.ends[i]]
}

// search returns the place of the first key at or behind key.
func (s *keySet) search(key []byte) int {
	n := min(len(key), len(s.prefix))
	switch c := bytes.Compare(key[:n], s.prefix[:n]); {
	case c > 0:
		return len(s.heads)
	case c < 0 || n < len(s.prefix):
		return 0
	}
	rest := key[n:]
	want := head(rest)
	// Without branches that the processor would guess at: i is the number of heads below want.
	i, left := 0, len(s.heads)
	for left > 0 {
		half := left >> 1
		if s.heads[i+half] < want {
			i += half + 1
			left -= half + 1
		} else {
			left = half
		}
	}
	if i == len(s.heads) || s.heads[i] != want {
		return i
	}
	if s.fixed > 0 {
		// The one key with this head is that key, or what it begins with: then it is before it.
		if len(rest) > s.fixed-n {
			i++
		}
		return i
	}
	if bytes.Compare(s.key(i), key) >= 0 {
		return i
	}
	alike := sort.Search(len(s.heads)-i, func(j int) bool { return s.heads[i+j] != want })
	return i + sort.Search(alike, func(j int) bool { return bytes.Compare(s.key(i+j), key) >= 0 })
}

// find returns the place of a key, or -1.
func (s *keySet) find(key []byte) int {
	if s.fixed > 0 && len(key) != s.fixed || !bytes.HasPrefix(key, s.prefix) {
		return -1
	}
	i := s.search(key)
	switch {
	case i == len(s.heads) || s.heads[i] != head(key[len(s.prefix):]):
		return -1
	case s.fixed == 0 && !bytes.Equal(s.key(i), key):
		return -1
	}
	return i
}

// searchFrom is search for a key that is not before key from. It looks near that first: many ranges are short.
func (s *keySet) searchFrom(from int, key []byte) int {
	const near = 4
	for i := from; i < min(from+near, len(s.heads)); i++ {
		if s.compare(i, key) >= 0 {
			return i
		}
	}
	return s.search(key)
}

// compare compares key i with key.
func (s *keySet) compare(i int, key []byte) int {
	n := len(s.prefix)
	if s.fixed == 0 {
		return bytes.Compare(s.key(i), key)
	}
	if !bytes.HasPrefix(key, s.prefix) {
		return bytes.Compare(s.prefix, key) // one of the two is no beginning of the other, or key is
	}
	if c := cmp.Compare(s.heads[i], head(key[n:])); c != 0 {
		return c
	}
	return cmp.Compare(s.fixed, len(key))
}
