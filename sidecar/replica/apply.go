package replica

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"google.golang.org/protobuf/proto"

	replicationv1 "github.com/nearside-dev/nearside/gen/nearside/replication/v1"
	"github.com/nearside-dev/nearside/internal/catalog"
	"github.com/nearside-dev/nearside/internal/meshdb"
	"github.com/nearside-dev/nearside/internal/rowcodec"
	"github.com/nearside-dev/nearside/sidecar/stamp"
)

// ApplyRecords applies a group of encoded commit records of one database, in order, and makes them visible together. It keeps
// nothing of what it is given. A database without a copy gets one.
//
// After an error none of the group is visible, unless the schema change in it made the copy build an index: then the records
// before that one may be. Errors are ErrRecord, ErrGap, ErrFork, ErrMeshBehind, ErrDiverged, the copy's own problem, and those
// of the store. After ErrDiverged the copy is not served until it was wiped and followed anew; where tables can be repaired,
// it is the table that is not served, and no error.
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
	g := &group{store: d.store, database: d, catalog: cat, repairs: d.store.repairs.Load()}
	g.begin()
	defer func() { _ = g.batch.Close() }() // gives memory back; there is nothing to lose
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

// group collects records in one Pebble batch. The batch is an indexed one, because a later record of the group must see the
// rows of an earlier one.
type group struct {
	store    *Store
	database *Database

	batch   *pebble.Batch
	next    applied // the state after the batch
	catalog *catalog.Catalog
	sums    map[uint32]*tableSum // of the tables that were touched
	records int
	bytes   int
	touched stamp.Touched

	record replicationv1.CommitRecord

	repairs bool    // whether a table that differs can be copied by itself
	found   []error // about tables that differ

	// Scratch.
	key, value, oldIndexKey, newIndexKey []byte
	oldRow, newRow                       rowcodec.Row
}

// begin starts a new batch on what is applied.
func (g *group) begin() {
	g.batch = g.store.db.NewIndexedBatch()
	g.next = *g.database.state.Load()
	if g.next.problem != problemSyncing {
		// Records that continue the copy's own history prove that there is no fork, or none any more.
		g.next.problem = problemNone
	}
	g.sums = make(map[uint32]*tableSum)
	g.records, g.bytes = 0, 0
	g.touched = stamp.Touched{}
}

// add puts a record into the batch. After an error the batch is not to be committed.
func (g *group) add(record []byte) error {
	r := &g.record
	if err := proto.Unmarshal(record, r); err != nil {
		return fmt.Errorf("%w: after version %d: %w", ErrRecord, g.next.version, err)
	}
	if err := g.check(r); err != nil {
		return err
	}
	if err := g.addContents(r); err != nil {
		return fmt.Errorf("record %d: %w", r.Version, err)
	}
	if err := g.batch.Set(tailKey(g.database.id, r.Version), record, nil); err != nil {
		return err
	}
	g.next.epochs = withEpoch(g.next.epochs, r.Epoch, r.Version)
	g.next.epoch, g.next.version = r.Epoch, r.Version
	sum := sha256.Sum256(record)
	copy(g.next.checksum[:], sum[:])
	g.next.tailBytes += uint64(len(record))
	g.records++
	g.bytes += len(record)
	return nil
}

func (g *group) addContents(r *replicationv1.CommitRecord) error {
	if r.Catalog != nil {
		change, err := g.planCatalog(r)
		if err != nil {
			return err
		}
		if len(change.build) > 0 {
			if err := g.buildIndexes(change.build); err != nil {
				return err
			}
		}
		if err := g.changeCatalog(r, change); err != nil {
			return err
		}
	}
	for _, id := range r.DroppedTableIds {
		if g.catalog.TableByID(id) != nil {
			return fmt.Errorf("%w: table %d is dropped and in the schema", ErrRecord, id)
		}
		if err := g.dropTable(id); err != nil {
			return err
		}
	}
	for _, change := range r.Tables {
		if err := g.changeTable(change, r.Version); err != nil {
			return err
		}
	}
	return nil
}

// check tests whether a record follows what the batch has.
func (g *group) check(r *replicationv1.CommitRecord) error {
	switch {
	case r.Version != g.next.version+1:
		return fmt.Errorf("%w: version %d follows %d", ErrGap, r.Version, g.next.version)
	case !bytes.Equal(r.PreviousChecksum, g.next.checksum[:]):
		return fmt.Errorf("%w: record %d follows checksum %x, the copy has %x",
			ErrFork, r.Version, r.PreviousChecksum, g.next.checksum)
	case r.Epoch < g.next.epoch:
		return fmt.Errorf("%w: record %d is of epoch %d, the one before of %d", ErrFork, r.Version, r.Epoch, g.next.epoch)
	}
	if g.database.id == meshdb.DatabaseID {
		return nil
	}
	if have := g.store.meshVersion(); r.MeshVersion > have {
		return fmt.Errorf("%w: record %d needs version %d, the copy has %d", ErrMeshBehind, r.Version, r.MeshVersion, have)
	}
	return nil
}

// commit writes the batch and makes it visible.
func (g *group) commit() error {
	d := g.database
	for table, sum := range g.sums {
		if err := g.batch.Set(sumKey(d.id, table), sum.encode(), nil); err != nil {
			return err
		}
	}
	if err := g.trimTail(); err != nil {
		return err
	}
	if err := g.batch.Set(stateKey(d.id), g.next.encode(), nil); err != nil {
		return err
	}
	next := g.next
	if err := d.commit(g.batch, &next, g.touched); err != nil {
		return err
	}
	g.store.metrics.records.Add(float64(g.records))
	g.store.metrics.bytes.Add(float64(g.bytes))
	return nil
}

// trimTail cuts the oldest records off the log's tail. It lets an eighth too many gather first, so that it seldom has to
// look.
func (g *group) trimTail() error {
	o := &g.store.options
	n := &g.next
	if n.version+1-n.tailFirst <= o.TailRecords+o.TailRecords/8 && n.tailBytes <= o.TailBytes+o.TailBytes/8 {
		return nil
	}
	lower := tailKey(g.database.id, n.tailFirst)
	_, upper := spaceRange(g.database.id, spaceTail)
	iter, err := g.batch.NewIter(&pebble.IterOptions{LowerBound: lower, UpperBound: upper})
	if err != nil {
		return fmt.Errorf("trim log tail: %w", err)
	}
	for ok := iter.First(); ok && err == nil; ok = iter.Next() {
		if n.version+1-n.tailFirst <= o.TailRecords && n.tailBytes <= o.TailBytes {
			break
		}
		var record []byte
		record, err = iter.ValueAndErr()
		n.tailFirst++
		n.tailBytes -= min(n.tailBytes, uint64(len(record)))
	}
	if err = errors.Join(err, iter.Error(), iter.Close()); err != nil {
		return fmt.Errorf("trim log tail: %w", err)
	}
	return g.batch.DeleteRange(lower, tailKey(g.database.id, n.tailFirst), nil)
}
