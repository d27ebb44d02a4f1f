package replica

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"github.com/nearside-dev/nearside/internal/catalog"
	"github.com/nearside-dev/nearside/internal/meshdb"
	"github.com/nearside-dev/nearside/internal/rowcodec"
	"github.com/nearside-dev/nearside/sidecar/stamp"
)

// ApplyRecords applies a group of encoded commit records of one database, in order, and makes them visible together. It keeps
// nothing of what it is given. A database without a copy gets one.
//
// After an error none of the group is visible, unless the schema changes in it: then the records before that one may be.
// Errors are ErrRecord, ErrGap, ErrFork, ErrMeshBehind, ErrDiverged, the copy's own problem, and those of the store. After
// ErrDiverged the copy is not served until it was wiped and followed anew; where tables can be repaired, it is the table that
// is not served, and no error.
func (s *Store) ApplyRecords(database uint32, records [][]byte) error {
	if len(records) == 0 {
		return nil
	}
	if err := s.acquire(); err != nil {
		return err
	}
	defer s.release()
	d := s.ensure(database)
	d.writer.Lock()
	defer d.writer.Unlock()
	begin := time.Now()
	if err := d.apply(records); err != nil {
		if failed := s.Failed(); failed != nil {
			return failed // whatever else went wrong, that is why
		}
		if errors.Is(err, ErrDiverged) && d.state.Load().problem != problemDiverged {
			s.metrics.divergences.Inc()
			err = errors.Join(err, d.setProblemLocked(problemDiverged))
		}
		return fmt.Errorf("apply to database %d: %w", database, err)
	}
	s.metrics.applySeconds.Observe(time.Since(begin).Seconds())
	return nil
}

func (d *Database) apply(records [][]byte) error {
	a := d.state.Load()
	if a.problem == problemDiverged || a.problem == problemDropped {
		return a.problem.err()
	}
	cat, err := a.loadCatalog(d.store.db, d.id)
	if err != nil {
		return err
	}
	g := d.newGroup(cat)
	defer g.end()
	g.repairs = d.store.repairs.Load()
	for _, record := range records {
		if err := g.add(record); err != nil {
			return err
		}
	}
	if err := g.commit(); err != nil {
		return err
	}
	for _, err := range g.found {
		d.store.metrics.divergences.Inc()
		d.store.logger.Error("table is no longer served and copied anew", slog.Uint64("database", uint64(d.id)), slog.Any("error", err))
	}
	return nil
}

// group collects records. What they say of a row is gathered until the commit, so that a row that a group changes many times
// is looked up once and written once, and a later record of the group sees what an earlier one left without reading a batch.
type group struct {
	store    *Store
	database *Database

	batch   *pebble.Batch
	next    applied // the state after the batch
	catalog *catalog.Catalog
	sums    map[uint32]*tableSum // of the tables that were touched
	tables  map[uint32]*changedTable
	records [][]byte // the group so far, as it came
	bytes   int
	// everything says that the group changes more than the rows in tables.
	everything bool

	record record

	repairs bool    // whether a table that differs can be copied by itself
	found   []error // about tables that differ

	olds oldRows

	scratch
}

// scratch is what a group reuses of the one before.
type scratch struct {
	spare   []*changedTable
	old     []byte // rows as the store has them
	entries []byte // keys of index entries
	ops     [][]entryOp
	slots   []stamp.Slot
	row     rowcodec.Row
	key     []byte
	value   []byte
}

// Memory beyond these is not kept for the next group: most are far smaller.
const (
	maxScratch     = 1 << 20 // bytes
	maxScratchRows = 1 << 14
)

// largeGroup is the size, in bytes of its records, of a group whose batch is made as large as it will become: rows, tail and
// some index entries are less than three times the records. A batch that grows copies itself again and again.
const largeGroup = 64 << 10

// newGroup begins a group of records. End it.
func (d *Database) newGroup(cat *catalog.Catalog) *group {
	g, ok := d.store.groups.Get().(*group)
	if !ok {
		g = &group{sums: make(map[uint32]*tableSum), tables: make(map[uint32]*changedTable)}
	}
	g.store, g.database, g.catalog = d.store, d, cat
	g.begin()
	return g
}

// begin starts a new batch on what is applied.
func (g *group) begin() {
	g.batch = g.store.db.NewBatch()
	g.next = *g.database.state.Load()
	if g.next.problem != problemSyncing {
		// Records that continue the copy's own history prove that there is no fork, or none any more.
		g.next.problem = problemNone
	}
	g.clear()
}

// clear forgets what the group has gathered.
func (g *group) clear() {
	for _, t := range g.tables {
		t.reset()
		if cap(t.rows) <= maxScratchRows && len(g.spare) < 8 {
			g.spare = append(g.spare, t)
		}
	}
	clear(g.tables)
	clear(g.sums)
	clear(g.records)
	g.records, g.bytes = g.records[:0], 0
	g.everything = false
	g.old, g.entries = g.old[:0], g.entries[:0]
	g.olds.clear()
}

// end gives back the group's memory. What was not committed is lost.
func (g *group) end() {
	_ = g.batch.Close() // gives memory back; there is nothing to lose
	g.clear()
	g.record.reset()
	if cap(g.old)+cap(g.entries)+4*cap(g.slots)+cap(g.key)+cap(g.value)+cap(g.olds.buf) > maxScratch {
		return
	}
	store := g.store
	*g = group{
		sums: g.sums, tables: g.tables, records: g.records, record: g.record, olds: g.olds,
		scratch: scratch{spare: g.spare, old: g.old, entries: g.entries, ops: g.ops, slots: g.slots, key: g.key, value: g.value},
	}
	store.groups.Put(g)
}

// add puts a record into the group. After an error the group is not to be committed.
func (g *group) add(encoded []byte) error {
	r := &g.record
	if err := r.decode(encoded); err != nil {
		return fmt.Errorf("%w: after version %d: %w", ErrRecord, g.next.version, err)
	}
	if err := g.check(r); err != nil {
		return err
	}
	if err := g.addContents(r); err != nil {
		return fmt.Errorf("record %d: %w", r.version, err)
	}
	g.next.epochs = withEpoch(g.next.epochs, r.epoch, r.version)
	g.next.epoch, g.next.version = r.epoch, r.version
	var err error
	if g.next.checksum, err = r.checksum(encoded); err != nil {
		return fmt.Errorf("%w: version %d: %w", ErrRecord, r.version, err)
	}
	g.next.tailBytes += uint64(len(encoded) + len(g.olds.of(len(g.records))))
	g.records = append(g.records, encoded)
	g.bytes += len(encoded)
	return nil
}

func (g *group) addContents(r *record) error {
	if r.catalog != nil {
		if err := g.changeSchema(r); err != nil {
			return err
		}
	}
	for _, id := range r.dropped {
		if g.catalog.TableByID(id) != nil {
			return fmt.Errorf("%w: table %d is dropped and in the schema", ErrRecord, id)
		}
		if err := g.dropTable(id); err != nil {
			return err
		}
	}
	g.olds.beginRecord()
	for i := range r.tables {
		g.olds.beginTable()
		if err := g.changeTable(&r.tables[i], r.version); err != nil {
			return err
		}
		g.olds.endTable(!g.next.isDiverged(r.tables[i].id))
	}
	g.olds.endRecord()
	return nil
}

// check tests whether a record follows what the batch has.
func (g *group) check(r *record) error {
	switch {
	case r.version != g.next.version+1:
		return fmt.Errorf("%w: version %d follows %d", ErrGap, r.version, g.next.version)
	case !bytes.Equal(r.previousChecksum, g.next.checksum[:]):
		return fmt.Errorf("%w: record %d follows checksum %x, the copy has %x",
			ErrFork, r.version, r.previousChecksum, g.next.checksum)
	case r.epoch < g.next.epoch:
		return fmt.Errorf("%w: record %d is of epoch %d, the one before of %d", ErrFork, r.version, r.epoch, g.next.epoch)
	}
	if g.database.id == meshdb.DatabaseID {
		return nil
	}
	if have := g.store.meshVersion(); r.meshVersion > have {
		return fmt.Errorf("%w: record %d needs version %d, the copy has %d", ErrMeshBehind, r.version, r.meshVersion, have)
	}
	return nil
}

// commit writes the group and makes it visible.
func (g *group) commit() error {
	d := g.database
	if g.bytes > largeGroup && g.batch.Empty() {
		_ = g.batch.Close() // gives memory back; there is nothing in it
		g.batch = g.store.db.NewBatchWithSize(3 * g.bytes)
	}
	if err := g.writeRows(); err != nil {
		return err
	}
	for table, sum := range g.sums {
		if err := g.batch.Set(sumKey(d.id, table), sum.encode(), nil); err != nil {
			return err
		}
	}
	if err := g.writeTail(); err != nil {
		return err
	}
	if err := g.batch.Set(stateKey(d.id), g.next.encode(), nil); err != nil {
		return err
	}
	next := g.next
	if err := d.commit(g.batch, &next, g.touched()); err != nil {
		return err
	}
	g.store.metrics.records.Add(float64(len(g.records)))
	g.store.metrics.bytes.Add(float64(g.bytes))
	return nil
}

// writeTail appends the group's records to the log's tail and cuts off the oldest. It lets an eighth too many gather first,
// so that it seldom has to look.
func (g *group) writeTail() error {
	o, n, id := &g.store.options, &g.next, g.database.id
	first := n.version + 1 - uint64(len(g.records)) // of the group
	full := func() bool { return n.version+1-n.tailFirst > o.TailRecords || n.tailBytes > o.TailBytes }
	if n.version+1-n.tailFirst > o.TailRecords+o.TailRecords/8 || n.tailBytes > o.TailBytes+o.TailBytes/8 {
		if err := g.cutTail(first, full); err != nil {
			return fmt.Errorf("trim log tail: %w", err)
		}
		for n.tailFirst >= first && n.tailFirst <= n.version && full() {
			at := int(n.tailFirst - first)
			n.tailBytes -= min(n.tailBytes, uint64(len(g.records[at])+len(g.olds.of(at))))
			n.tailFirst++
		}
	}
	for version := max(first, n.tailFirst); version <= n.version; version++ {
		if err := g.batch.Set(tailKey(id, version), g.records[version-first], nil); err != nil {
			return err
		}
		if old := g.olds.of(int(version - first)); len(old) > 0 {
			if err := g.batch.Set(oldKey(id, version), old, nil); err != nil {
				return err
			}
		}
	}
	return nil
}

// cutTail deletes the oldest records before a version while the tail is full.
func (g *group) cutTail(before uint64, full func() bool) (err error) {
	n, id := &g.next, g.database.id
	records, err := g.store.db.NewIter(&pebble.IterOptions{LowerBound: tailKey(id, n.tailFirst), UpperBound: tailKey(id, before)})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, records.Error(), records.Close()) }()
	// Most records have replaced nothing: looking for that of each would read in vain in every file.
	olds, err := g.store.db.NewIter(&pebble.IterOptions{LowerBound: oldKey(id, n.tailFirst), UpperBound: oldKey(id, before)})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, olds.Error(), olds.Close()) }()
	olds.First()
	for ok := records.First(); ok && full(); ok = records.Next() {
		size, err := valueSize(records)
		if err != nil {
			return err
		}
		key := oldKey(id, n.tailFirst)
		for olds.Valid() && bytes.Compare(olds.Key(), key) <= 0 {
			old, err := valueSize(olds)
			if err != nil {
				return err
			}
			size += old
			olds.Next()
		}
		n.tailFirst++
		n.tailBytes -= min(n.tailBytes, size)
	}
	// From the first key that there can be: what an older format left before the tail is deleted too.
	return errors.Join(
		g.batch.DeleteRange(tailKey(id, 0), tailKey(id, n.tailFirst), nil),
		g.batch.DeleteRange(oldKey(id, 0), oldKey(id, n.tailFirst), nil),
	)
}

func valueSize(iter *pebble.Iterator) (uint64, error) {
	v, err := iter.ValueAndErr()
	return uint64(len(v)), err
}
