package replica

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2"
	"google.golang.org/protobuf/proto"

	replicationv1 "github.com/nearside-dev/nearside/gen/nearside/replication/v1"
	"github.com/nearside-dev/nearside/internal/catalog"
	"github.com/nearside-dev/nearside/internal/meshdb"
	"github.com/nearside-dev/nearside/internal/rowcodec"
)

// finishBuild checks the copy in the making against the primary's sums, makes its indexes, and puts it in the place of what
// is served. It waits for _mesh, and for a table's copy until the database is as far as it.
func (d *Database) finishBuild(ctx context.Context, b *build, done *replicationv1.SnapshotDone) error {
	at, err := placeOf(done.GetPosition())
	if err != nil {
		return err
	}
	if b.at != at && at.version > 0 || b.newest > at.version {
		return fmt.Errorf("%w: ends at version %d with chunks up to %d, the copy at %d", errBuild, at.version, b.newest, b.at.version)
	}
	sums := make(map[uint32]tableSum, len(done.GetSums()))
	for _, s := range done.GetSums() {
		sum, err := rowcodec.ParseSum(s.GetSum())
		if err != nil {
			return fmt.Errorf("%w: %w", errBuild, err)
		}
		sums[s.GetTableId()] = tableSum{sum: sum, rows: s.GetRowCount()}
	}
	again := b.indexing
	if b, err = d.step(b, func(_ *pebble.Batch, next *build) error {
		next.rowsDone, next.indexing = true, true
		return nil
	}); err != nil {
		return err
	}
	for _, t := range b.catalog.Tables {
		if !b.wants(t.ID) || slices.Contains(b.lacking, t.ID) {
			continue
		}
		if err := d.finishTable(ctx, b, t, sums[t.ID], again); err != nil {
			return fmt.Errorf("table %s: %w", t.Name, err)
		}
	}
	if err := d.store.awaitMesh(ctx, d.id, done.GetMeshVersion()); err != nil {
		return err
	}
	if b.tables == nil {
		return d.switchTo(b, sums)
	}
	if err := d.WaitFor(ctx, at.epoch, at.version); err != nil {
		return err
	}
	return d.switchTables(b, sums)
}

// awaitMesh waits until the copy of _mesh has a version.
func (s *Store) awaitMesh(ctx context.Context, database uint32, version uint64) error {
	for database != meshdb.DatabaseID {
		changed := s.MeshChanged()
		if s.meshVersion() >= version {
			return nil
		}
		select {
		case <-changed:
		case <-s.failed:
			return s.Failed()
		case <-s.closing:
			return ErrClosed
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// finishTable goes over a table's rows once: it sums them up and makes their index entries. Entries of an attempt that was
// cut are deleted first.
func (d *Database) finishTable(ctx context.Context, b *build, t *catalog.Table, want tableSum, again bool) (err error) {
	if err := d.store.acquire(); err != nil {
		return err
	}
	defer d.store.release()
	batch := d.store.db.NewBatch()
	defer func() { _ = batch.Close() }() // gives memory back; there is nothing to lose
	if again {
		for i := range t.Indexes {
			lower, upper := indexRange(d.id, b.generation, t.ID, t.Indexes[i].ID)
			if err := batch.DeleteRange(lower, upper, nil); err != nil {
				return err
			}
		}
	}
	lower, upper := indexRange(d.id, b.generation, t.ID, rowsIndex)
	iter, err := d.store.db.NewIter(&pebble.IterOptions{LowerBound: lower, UpperBound: upper})
	if err != nil {
		return err
	}
	var have tableSum
	var row rowcodec.Row
	var key, canonical []byte
	for ok := iter.First(); ok && err == nil; ok = iter.Next() {
		var stored, value []byte
		if stored, err = iter.ValueAndErr(); err != nil {
			break
		}
		if value, _, err = splitRow(stored); err != nil {
			break
		}
		if value, err = rowcodec.CanonicalRow(&canonical, t, value); err != nil {
			err = fmt.Errorf("%w: %w", errBuild, err)
			break
		}
		rowKey := iter.Key()[dataPrefixSize:]
		have.sum = have.sum.Add(rowcodec.RowSum(t.ID, rowKey, value))
		have.rows++
		if len(t.Indexes) == 0 {
			continue
		}
		if err = rowcodec.DecodeRowInto(&row, t, rowKey, value); err != nil {
			err = fmt.Errorf("%w: %w", errBuild, err)
			break
		}
		for i := range t.Indexes {
			key = appendDataPrefix(key[:0], d.id, b.generation, t.ID, t.Indexes[i].ID)
			key = rowcodec.AppendIndexKey(key, t, &t.Indexes[i], row, rowKey)
			err = errors.Join(err, batch.Set(key, nil, nil))
		}
		if err == nil && batch.Len() >= buildBytes {
			if err = d.commitEntries(b, batch); err == nil {
				err = ctx.Err()
			}
			batch = renew(d.store, batch)
		}
	}
	if err = errors.Join(err, iter.Error(), iter.Close()); err != nil {
		return err
	}
	if have != want {
		return fmt.Errorf("%w: %d rows with sum %v, the primary has %d with %v", errBuild, have.rows, have.sum, want.rows, want.sum)
	}
	return d.commitEntries(b, batch)
}

// commitEntries writes index entries of a build, if it still is the present one.
func (d *Database) commitEntries(b *build, batch *pebble.Batch) error {
	d.writer.Lock()
	defer d.writer.Unlock()
	if d.building.Load() != b {
		return errBuildLost
	}
	return d.store.commit(batch)
}

// switchTo puts a whole copy in the place of the old one.
func (d *Database) switchTo(b *build, sums map[uint32]tableSum) error {
	if err := d.store.acquire(); err != nil {
		return err
	}
	defer d.store.release()
	d.writer.Lock()
	defer d.writer.Unlock()
	old := d.state.Load()
	if d.building.Load() != b || old.problem == problemDropped {
		return errBuildLost
	}
	a := newApplied(b.generation, problemNone)
	if old.problem != problemNone {
		a.problem = problemSyncing // until it has what the primary then says to have
	}
	a.epoch, a.version, a.checksum, a.tailFirst = b.at.epoch, b.at.version, b.at.checksum, b.at.version+1
	a.epochs = old.epochs
	if n := len(a.epochs); a.version > 0 && (n == 0 || a.epochs[n-1].epoch != a.epoch) {
		// Where the epoch began was in the records that are gone: bookmarks of older ones are lost.
		a.epochs = []epochStart{{epoch: a.epoch}}
	}
	a.catalogVersion, a.withheld = b.catalogVersion, b.withheld
	a.catalog = new(atomic.Pointer[catalog.Catalog])
	batch := d.store.db.NewBatch()
	defer func() { _ = batch.Close() }() // gives memory back; there is nothing to lose
	var errs []error
	for _, space := range []byte{spaceSum, spaceTail, spaceOld, spaceCatalog} {
		lower, upper := spaceRange(d.id, space)
		errs = append(errs, batch.DeleteRange(lower, upper, nil))
	}
	lower, upper := generationRange(d.id, 0, b.generation)
	errs = append(errs, batch.DeleteRange(lower, upper, nil), forgetBuild(batch, d.id))
	if b.catalogVersion > 0 {
		stored, err := proto.Marshal(b.catalog.ToProto())
		if err != nil {
			return err
		}
		a.catalog.Store(b.catalog)
		errs = append(errs, batch.Set(catalogKey(d.id), stored, nil))
	}
	for _, t := range b.catalog.Tables {
		if slices.Contains(b.lacking, t.ID) {
			a.diverge(t.ID)
		}
		errs = append(errs, batch.Set(sumKey(d.id, t.ID), sums[t.ID].encode(), nil))
	}
	lost := lostNames(old.withheld, a.withheld)
	if len(lost) > 0 { // what is deleted here, and was before, the region may not have any more
		lower, upper := databaseRange(d.id)
		errs = append(errs, d.store.eraser.Erase(batch, lower, upper))
	}
	errs = append(errs, batch.Set(stateKey(d.id), a.encode(), nil))
	if err := errors.Join(errs...); err != nil {
		return err
	}
	commit := func() error { return d.commit(batch, a, everything) }
	if len(lost) > 0 {
		commit = func() error { return d.commitErasing(batch, a) }
	}
	if err := commit(); err != nil {
		return err
	}
	d.building.Store(nil)
	if len(lost) > 0 {
		d.store.erase(d.id)
	}
	return nil
}

// switchTables puts copies of tables in the place of the old ones, after bringing them from where they are to where the
// database is by the records of the tail.
func (d *Database) switchTables(b *build, sums map[uint32]tableSum) (err error) {
	if err := d.store.acquire(); err != nil {
		return err
	}
	defer d.store.release()
	d.writer.Lock()
	defer d.writer.Unlock()
	old := d.state.Load()
	if d.building.Load() != b || old.problem == problemDropped {
		return errBuildLost
	}
	if old.tailFirst > b.at.version+1 || old.catalogVersion != b.catalogVersion || !slices.Equal(old.withheld, b.withheld) {
		return errBuildStale
	}
	g := d.newGroup(b.catalog)
	defer g.end()
	g.next.problem = old.problem
	moved := make(map[uint32]uint32)
	maps.Copy(moved, old.moved)
	for _, table := range b.tables {
		g.next.forget(table)
		lower, upper := tableRange(d.id, old.generationOf(table), table)
		if err := g.batch.DeleteRange(lower, upper, nil); err != nil {
			return err
		}
		delete(moved, table)
		if b.catalog.TableByID(table) == nil {
			continue // dropped meanwhile
		}
		moved[table] = b.generation
		sum := sums[table]
		g.sums[table] = &sum
	}
	g.next.moved = moved
	checksum := b.at.checksum
	for version := b.at.version + 1; version <= old.version; version++ {
		if checksum, err = g.addTail(b, version, checksum); err != nil {
			return fmt.Errorf("record %d: %w", version, err)
		}
	}
	if checksum != old.checksum {
		return fmt.Errorf("%w: the log tail ends with checksum %x, %x was applied", errBuildStale, checksum, old.checksum)
	}
	if err := forgetBuild(g.batch, d.id); err != nil {
		return err
	}
	g.everything = true
	if err := g.commit(); err != nil {
		return err
	}
	d.building.Store(nil)
	return nil
}

// addTail applies to the tables of a build what a record of the tail says of them, and returns the record's checksum. A
// record that does not follow the one before is of no use: a build of a later version does without it.
func (g *group) addTail(b *build, version uint64, before [checksumSize]byte) (checksum [checksumSize]byte, err error) {
	stored, err := get(g.store.db, tailKey(g.database.id, version))
	if err != nil {
		return checksum, err
	}
	r := &g.record
	if stored == nil || r.decode(stored) != nil || !bytes.Equal(r.previousChecksum, before[:]) {
		return checksum, fmt.Errorf("%w: log tail", errBuildStale)
	}
	for i := range r.tables {
		if !b.wants(r.tables[i].id) {
			continue
		}
		if err := g.changeTable(&r.tables[i], version); err != nil {
			return checksum, err
		}
	}
	if checksum, err = r.checksum(stored); err != nil {
		return checksum, fmt.Errorf("%w: log tail: %w", errBuildStale, err)
	}
	return checksum, nil
}
