package engine

import (
	"hash/maphash"

	"github.com/nearside-dev/nearside/services/data/changelog"
)

// briefGeneration is how many keys are remembered at least: of the last second under full load.
const briefGeneration = 16 << 10

// briefKeys knows of most idempotency keys that a node made for its own repeats that the log does not have them: looking up a
// new one in the log takes longer than the statement under it. The keys begin with the time. Those at or below floor may be in the
// log; above it the log has only what is remembered here. That is so whatever the nodes' clocks say and whoever makes such keys:
// they cost a look-up where they are not in order.
type briefKeys struct {
	limit       int   // of a generation
	kept        gauge // how many there are, of all databases; nil in tests
	ready       bool
	floor       string
	seed        maphash.Seed
	now, before generation
}

// generation is some keys, by their hashes: one that seems to be there is looked up.
type generation struct {
	hashes map[uint64]struct{}
	last   string
}

// isNew reports that the log certainly has no outcome of a key.
func (b *briefKeys) isNew(log *changelog.Log, database uint32, key changelog.IdempotencyKey) (bool, error) {
	if !key.IsBrief() {
		return false, nil
	}
	if !b.ready {
		last, err := log.LastBriefKey(database)
		if err != nil {
			return false, err
		}
		b.ready, b.floor, b.seed, b.now = true, last, maphash.MakeSeed(), newGeneration()
	}
	if key.Key <= b.floor {
		return false, nil
	}
	hash := b.hash(key)
	_, now := b.now.hashes[hash]
	_, before := b.before.hashes[hash]
	return !now && !before, nil
}

// stored notes that the log gets a key.
func (b *briefKeys) stored(key changelog.IdempotencyKey) {
	if !b.ready || !key.IsBrief() || key.Key <= b.floor {
		return // before the first look-up the log itself is asked for the last key
	}
	if len(b.now.hashes) >= b.limit {
		b.count(-len(b.before.hashes))
		b.floor = max(b.floor, b.before.last)
		b.before, b.now = b.now, newGeneration()
	}
	had := len(b.now.hashes)
	b.now.hashes[b.hash(key)] = struct{}{}
	b.count(len(b.now.hashes) - had)
	b.now.last = max(b.now.last, key.Key)
}

// close takes the keys out of the count.
func (b *briefKeys) close() { b.count(-len(b.now.hashes) - len(b.before.hashes)) }

func (b *briefKeys) count(more int) {
	if b.kept != nil && more != 0 {
		b.kept.Add(float64(more))
	}
}

type gauge interface{ Add(float64) }

func (b *briefKeys) hash(key changelog.IdempotencyKey) uint64 {
	return maphash.Comparable(b.seed, key)
}

func newGeneration() generation { return generation{hashes: make(map[uint64]struct{})} }

// replayed looks for the outcome of an earlier transaction under a key; ErrNotFound for none.
func (w *writer) replayed(key changelog.IdempotencyKey) (changelog.Outcome, error) {
	isNew, err := w.brief.isNew(w.log, w.id, key)
	if err != nil {
		return changelog.Outcome{}, err
	}
	if isNew {
		return changelog.Outcome{}, changelog.ErrNotFound
	}
	return w.log.Outcome(w.id, key)
}
