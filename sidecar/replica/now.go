package replica

import (
	"errors"
	"io"
	"slices"

	"github.com/cockroachdb/pebble/v2"

	"github.com/nearside-dev/nearside/internal/catalog"
	"github.com/nearside-dev/nearside/sidecar/stamp"
)

// Now is the present state of a copy, for reads that are so short that a Pebble snapshot would be much of their cost. Nothing is
// held: a commit may come in between, and Close says so. It is for one goroutine.
type Now struct {
	database *Database
	applied  *applied
	catalog  *catalog.Catalog
	commits  uint64
	reading  stamp.Reading
	key      []byte
}

// Now begins a read; ok is false where a commit is on its way, or where the copy is not served or its catalog not loaded: take
// a Snapshot then. After ok Close it.
func (d *Database) Now() (n Now, ok bool) {
	if d.store.acquire() != nil {
		return Now{}, false
	}
	last := d.store.stamps.Last() // before all that follows, as in Snapshot
	n = Now{database: d, commits: d.commits.Load()}
	n.applied = d.state.Load()
	n.reading = stamp.Reading{At: n.applied.stamp, Until: last}
	n.catalog = n.applied.catalog.Load()
	if n.commits%2 != 0 || n.catalog == nil || n.applied.check(d.id) != nil {
		d.store.release()
		return Now{}, false
	}
	return n, true
}

// Close ends the read and reports whether all that was read is of the one state that Epoch and Version name. If it is not,
// what was read means nothing.
func (n *Now) Close() bool {
	// Writers make the number odd before a batch is committed and even after its state was published.
	same := n.database.commits.Load() == n.commits && n.database.store.Failed() == nil
	n.database.store.release()
	return same
}

// Epoch returns the epoch of the state's newest commit.
func (n *Now) Epoch() uint32 { return n.applied.epoch }

// Version returns the version of the state's newest commit.
func (n *Now) Version() uint64 { return n.applied.version }

// Reading says when what is read is of, for what is kept of it after Close has reported true.
func (n *Now) Reading() stamp.Reading { return n.reading }

// RowSlot returns what a row's value depends on, there or not.
func (n *Now) RowSlot(table uint32, key []byte) stamp.Slot {
	return n.database.store.stamps.Row(n.database.id, table, key)
}

// Catalog returns the schema. It is not nil.
func (n *Now) Catalog() *catalog.Catalog { return n.catalog }

// Readable reports whether a table is as the primary has it.
func (n *Now) Readable(t *catalog.Table) bool {
	return !slices.Contains(n.applied.diverged, t.ID)
}

// GetRow is Snapshot.GetRow, but that the value is valid until closer is closed, which is nil without a row. The table must be
// Readable.
func (n *Now) GetRow(t *catalog.Table, key []byte) (value []byte, rowVersion uint64, closer io.Closer, err error) {
	n.key = appendDataPrefix(n.key[:0], n.database.id, n.applied.generationOf(t.ID), t.ID, rowsIndex)
	n.key = append(n.key, key...)
	stored, closer, err := n.database.store.db.Get(n.key)
	if errors.Is(err, pebble.ErrNotFound) {
		return nil, 0, nil, nil
	}
	if err != nil {
		return nil, 0, nil, err
	}
	if value, rowVersion, err = splitRow(stored); err != nil {
		return nil, 0, nil, errors.Join(err, closer.Close())
	}
	return value, rowVersion, closer, nil
}
