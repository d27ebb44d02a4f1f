package replica

import (
	"context"
	"fmt"

	"github.com/nearside-dev/nearside/internal/catalog"
	"github.com/nearside-dev/nearside/sidecar/stamp"
)

// everything is what a change touches that is more than rows.
var everything = stamp.Touched{Everything: true}

// touched returns what the group changes. The slots are the group's, and valid until it ends.
func (g *group) touched() stamp.Touched {
	if g.everything {
		return everything
	}
	id, stamps := g.database.id, g.store.stamps
	g.slots = g.slots[:0]
	for _, t := range g.tables {
		g.slots = append(g.slots, stamps.Whole(id, t.table.ID))
		for i := range t.rows {
			g.slots = append(g.slots, stamps.Row(id, t.table.ID, t.rows[i].key))
		}
	}
	return stamp.Touched{Slots: g.slots}
}

// Moment is a published state of a copy. What a cache kept is compared with one that is taken before: DESIGN.md of package
// stamp says why.
type Moment struct{ applied *applied }

// Moment returns the present state; ok is false where the copy must not be read, and Problem says why.
func (d *Database) Moment() (m Moment, ok bool) {
	m.applied = d.state.Load()
	return m, m.applied.problem == problemNone && d.store.fs.Failed() == nil
}

// Catalog returns the schema; nil if there is none, or nobody has needed it yet.
func (m Moment) Catalog() *catalog.Catalog { return m.applied.catalog.Load() }

// Epoch returns the epoch of the newest commit.
func (m Moment) Epoch() uint32 { return m.applied.epoch }

// Version returns the version of the newest commit.
func (m Moment) Version() uint64 { return m.applied.version }

// SchemaVersion returns the version of the commit that made the schema; 0 where there is none.
func (m Moment) SchemaVersion() uint64 { return m.applied.catalogVersion }

// Stamp returns the number of the change that made the state.
func (m Moment) Stamp() stamp.Stamp { return m.applied.stamp }

// Reaches reports whether the state is at least as fresh as a bookmark. The error is ErrBookmarkLost, where none ever will be.
func (m Moment) Reaches(epoch uint32, version uint64) (bool, error) {
	return m.applied.reaches(epoch, version)
}

// Holds reports whether what was read of the copy, and depends on a slot of it, is what the copy has at a moment of it.
func (d *Database) Holds(r stamp.Reading, m Moment, slot stamp.Slot) bool {
	return d.store.stamps.Holds(r, m.applied.stamp, d.id, slot)
}

// AwaitChange waits until the copy's state is another one than that of a stamp, and returns it. Errors are Problem's, ErrClosed
// and ctx's.
func (d *Database) AwaitChange(ctx context.Context, than stamp.Stamp) (Moment, error) {
	for {
		changed := d.nextChange()
		if err := d.Problem(); err != nil {
			return Moment{}, err
		}
		if a := d.state.Load(); a.stamp != than {
			return Moment{a}, nil
		}
		select {
		case <-changed:
		case <-d.store.failed:
		case <-d.store.closing:
			return Moment{}, ErrClosed
		case <-ctx.Done():
			return Moment{}, ctx.Err()
		}
	}
}

// Stamps returns the stamps of what the store's databases hold.
func (s *Store) Stamps() *stamp.Table { return s.stamps }

// Reading returns when the snapshot was taken, for what is kept of it. It is zero where a commit was on its way: then nothing
// may be kept.
func (s *Snapshot) Reading() stamp.Reading { return s.reading }

// Floor returns the stamp of a state that was published when the snapshot was opened. The snapshot has that state or a newer
// one, of which all that it touched is raised.
func (s *Snapshot) Floor() stamp.Stamp { return s.floor }

// RowSlot returns what a row's value depends on, there or not, and TableSlot what all rows of a table do.
func (s *Snapshot) RowSlot(table uint32, key []byte) stamp.Slot {
	return s.store.stamps.Row(s.id, table, key)
}

// TableSlot returns what all rows of a table depend on.
func (s *Snapshot) TableSlot(table uint32) stamp.Slot { return s.store.stamps.Whole(s.id, table) }

// Holds reports whether what was read of the snapshot's database, and depends on a slot of it, is what the snapshot has.
func (s *Snapshot) Holds(r stamp.Reading, slot stamp.Slot) bool {
	return s.store.stamps.Holds(r, s.floor, s.id, slot)
}

// Touched returns the stamp of the newest change of what a slot of the snapshot's database stands for, now.
func (s *Snapshot) Touched(slot stamp.Slot) stamp.Stamp { return s.store.stamps.Newest(s.id, slot) }

// Newest returns another snapshot of the same copy, as it is now. It has none of the first one's memory, and is to be closed
// as well.
func (s *Snapshot) Newest() (*Snapshot, error) {
	d, ok := s.store.Database(s.id)
	if !ok {
		return nil, fmt.Errorf("database %d: %w", s.id, ErrDropped)
	}
	return d.Snapshot()
}
