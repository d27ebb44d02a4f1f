package edgesql

import (
	"bytes"
	"math/rand/v2"
	"slices"
	"testing"
)

// randomKeys returns keys in order, no two alike, many of them beginnings of others.
func randomKeys(r *rand.Rand) (keys [][]byte) {
	prefix, length, fixed := make([]byte, r.IntN(4)), 1+r.IntN(12), r.IntN(2) == 0
	for range r.IntN(40) {
		n := length
		if !fixed {
			n = r.IntN(length + 1)
		}
		key := bytes.Clone(prefix)
		for range n {
			key = append(key, pick(r, byte(0), 0, 1, 0x80, 0xff))
		}
		keys = append(keys, key)
	}
	slices.SortFunc(keys, bytes.Compare)
	return slices.CompactFunc(keys, bytes.Equal)
}

func pick[T any](r *rand.Rand, all ...T) T { return all[r.IntN(len(all))] }

func TestKeySet(t *testing.T) {
	for seed := range uint64(3000) {
		r := rand.New(rand.NewPCG(seed, 1))
		keys := randomKeys(r)
		var list keyList
		for _, key := range keys {
			list.add(key)
		}
		set := list.set()
		if set.len() != len(keys) {
			t.Fatalf("seed %d: %d keys of %d", seed, set.len(), len(keys))
		}
		for i, key := range keys {
			if got := set.appendKey(nil, i); !bytes.Equal(got, key) {
				t.Fatalf("seed %d: key %d is %x, want %x", seed, i, got, key)
			}
		}
		asked := append(randomKeys(r), keys...)
		for _, key := range keys {
			asked = append(asked, append(bytes.Clone(key), 0), key[:len(key)/2])
		}
		for _, key := range asked {
			want, found := slices.BinarySearchFunc(keys, key, bytes.Compare)
			if got := set.search(key); got != want {
				t.Fatalf("seed %d: %x is at %d, want %d, in %x", seed, key, got, want, keys)
			}
			from := 0
			if want > 0 {
				from = r.IntN(want + 1)
			}
			if got := set.searchFrom(from, key); got != want {
				t.Fatalf("seed %d: %x is at %d from %d on, want %d, in %x", seed, key, got, from, want, keys)
			}
			if !found {
				want = -1
			}
			if got := set.find(key); got != want {
				t.Fatalf("seed %d: %x found at %d, want %d, in %x", seed, key, got, want, keys)
			}
		}
	}
}
