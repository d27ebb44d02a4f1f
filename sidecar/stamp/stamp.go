// Package stamp says since when what a cache holds has been unchanged. A Table keeps, for each group of row keys, for each
// table and for each database, the newest change that touched it. Whoever changes the copies raises it; whoever keeps
// something of them notes when it was read, and asks before each use whether it still holds.
//
// Stamps number the changes that this process makes, to whatever database, and never go back, whatever versions and epochs do.
// DESIGN.md has the order in which things must be done, and why it is enough.
package stamp

import (
	"sync/atomic"

	"github.com/zeebo/xxh3"
)

// Stamp is the number of a change. The first one is 2: 0 and 1 are before all changes.
type Stamp uint64

// Sizes of the tables of stamps: what shares a place in one of them is invalidated together.
const (
	rowBits   = 16
	wholeBits = 12
)

// Slot is what a kept answer depends on beside its database: one group of rows, or one whole table.
type Slot uint32

// tableSlot marks the slots of tables; the others are of rows.
const tableSlot Slot = 1 << 31

// Table is the stamps of all databases of a process. It may be used concurrently.
type Table struct {
	last atomic.Uint64

	rows      [1 << rowBits]atomic.Uint64
	tables    [1 << wholeBits]atomic.Uint64
	databases [1 << wholeBits]atomic.Uint64

	// What follows is nil but in tests, which set it before anybody else uses the table: steps takes those of a change in
	// another order, or does something in between; reading and holding are called where a change may come in between.
	steps            func(raise func(), commit func() error, publish func()) error
	reading, holding func()
}

// NewTable returns a table without any change. It takes 576 KiB.
func NewTable() *Table {
	t := &Table{}
	t.last.Store(1)
	return t
}

// Row returns the slot of a row, by its encoded key.
func (t *Table) Row(database, table uint32, key []byte) Slot {
	h := xxh3.Hash(key) ^ (uint64(database)<<32 | uint64(table))
	return Slot(mix(h) >> (64 - rowBits))
}

// Whole returns the slot of a table: every change of its rows raises it.
func (t *Table) Whole(database, table uint32) Slot {
	return tableSlot | Slot(mix(uint64(database)<<32|uint64(table))>>(64-wholeBits))
}

// mix spreads what distinguishes two numbers over the upper bits.
func mix(h uint64) uint64 {
	h ^= h >> 32
	return h * 0x9E3779B97F4A7C15
}

func (t *Table) slot(s Slot) *atomic.Uint64 {
	if s&tableSlot != 0 {
		return &t.tables[s&(1<<wholeBits-1)]
	}
	return &t.rows[s&(1<<rowBits-1)]
}

func (t *Table) database(id uint32) *atomic.Uint64 {
	return &t.databases[mix(uint64(id))>>(64-wholeBits)]
}

// Touched is what a change of one database touches.
type Touched struct {
	// Everything is all of the database: its schema, what its tables' keys are, whether it is there at all.
	Everything bool
	// Slots are of rows, and of the tables that they are in.
	Slots []Slot
}

// Change makes a change of a database, of which there is one at a time, in the one order that is right: raise what it touches,
// commit it, publish the state with the change's stamp. The error is commit's, and then nothing is published.
func (t *Table) Change(database uint32, touched Touched, commit func() error, publish func(Stamp)) error {
	n := t.last.Add(1)
	if t.steps != nil {
		return t.steps(func() { t.raise(n, database, touched) }, commit, func() { publish(Stamp(n)) })
	}
	t.raise(n, database, touched)
	if err := commit(); err != nil {
		return err
	}
	publish(Stamp(n))
	return nil
}

// Invalidate makes all that was kept of what it names until now invalid. It is no change of the database.
func (t *Table) Invalidate(database uint32, touched Touched) {
	t.raise(t.last.Add(1), database, touched)
}

func (t *Table) raise(n uint64, database uint32, touched Touched) {
	if touched.Everything {
		raise(t.database(database), n)
		return
	}
	for _, s := range touched.Slots {
		raise(t.slot(s), n)
	}
}

// raise sets a to at least n: changes of other databases may have taken later stamps and be here first.
func raise(a *atomic.Uint64, n uint64) {
	for {
		if old := a.Load(); old >= n || a.CompareAndSwap(old, n) {
			return
		}
	}
}

// Last returns the newest stamp given. A reader takes it before it looks whether a change of its database is on its way, and
// before it opens what it reads.
func (t *Table) Last() Stamp {
	n := Stamp(t.last.Load())
	if t.reading != nil {
		t.reading()
	}
	return n
}

// Reading is when something was read of a database. The zero Reading says that it is not known.
type Reading struct {
	// At is the stamp of the newest change of the database that was seen.
	At Stamp
	// Until is a stamp, at least At, such that the database had no change in between: it is later where only other databases
	// have changed.
	Until Stamp
}

// Holds reports whether what was read of a database, and depends on a slot of it, is what would be read at now: the stamp of
// a state of the database that was published before Holds is called.
func (t *Table) Holds(r Reading, now Stamp, database uint32, s Slot) bool {
	if t.holding != nil {
		t.holding()
	}
	return r.At <= now && t.slot(s).Load() <= uint64(r.Until) && t.database(database).Load() <= uint64(r.Until)
}

// Newest returns the stamp of the newest change that touched what a slot of a database stands for.
func (t *Table) Newest(database uint32, s Slot) Stamp {
	return Stamp(max(t.slot(s).Load(), t.database(database).Load()))
}
