package replica

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"

	"github.com/cockroachdb/pebble/v2"
	"google.golang.org/protobuf/proto"

	replicationv1 "github.com/nearside-dev/nearside/gen/nearside/replication/v1"
	"github.com/nearside-dev/nearside/internal/catalog"
)

// Errors of a snapshot.
var (
	// errBuild means that what the primary sent cannot be a snapshot, or that its rows are not what its sums say.
	errBuild = errors.New("invalid snapshot")
	// errBuildLost means that the copy in the making is gone: the database was dropped or wiped.
	errBuildLost = errors.New("snapshot abandoned")
	// errBuildStale means that a table's new copy can no longer be brought to where the database is.
	errBuildStale = errors.New("snapshot too old")
)

// place is a place in a database's log.
type place struct {
	epoch    uint32
	version  uint64
	checksum [checksumSize]byte
}

func placeOf(p *replicationv1.LogPosition) (place, error) {
	at := place{epoch: p.GetEpoch(), version: p.GetVersion()}
	if len(p.GetChecksum()) != checksumSize && (at.version > 0 || len(p.GetChecksum()) > 0) {
		return place{}, fmt.Errorf("%w: checksum of %d bytes", errBuild, len(p.GetChecksum()))
	}
	copy(at.checksum[:], p.GetChecksum())
	return at, nil
}

func (p place) toProto() *replicationv1.LogPosition {
	m := &replicationv1.LogPosition{Epoch: p.epoch, Version: p.version}
	if p.version > 0 {
		m.Checksum = p.checksum[:]
	}
	return m
}

// build is a copy in the making: of a whole database, or of tables of it. It is immutable; each step makes the next one,
// which is on the disk with what the step wrote, so that a process that is killed goes on where it was.
type build struct {
	generation uint32
	tables     []uint32 // ascending; nil for all

	begin    place // the records after it make the rows those of one version
	at       place // the last record that was applied
	newest   uint64
	table    uint32 // of the last chunk
	after    []byte // its last key
	ended    bool   // it was the last of its table
	rowsDone bool   // records have begun to come
	indexing bool   // index entries have been written
	rows     uint64
	total    uint64
	bytes    uint64   // of the rows' keys and values
	lacking  []uint32 // tables, ascending, that a record replaced when the rows had been sent: to be copied afterwards

	withheld []string // names of tables that the region may not hold, ascending

	catalogVersion uint64
	catalog        *catalog.Catalog
}

// buildFormat begins a stored build. In format 1 the bytes were not counted and no table could be lacking; before format 3
// nothing is withheld.
const buildFormat = 3

func (b *build) encode() []byte {
	flags := uint64(0)
	for i, f := range []bool{b.ended, b.rowsDone, b.indexing} {
		if f {
			flags |= 1 << i
		}
	}
	out := []byte{buildFormat}
	for _, n := range []uint64{uint64(b.generation), flags, b.newest, uint64(b.table), b.rows, b.total, b.catalogVersion} {
		out = binary.AppendUvarint(out, n)
	}
	for _, p := range []place{b.begin, b.at} {
		out = binary.AppendUvarint(out, uint64(p.epoch))
		out = binary.AppendUvarint(out, p.version)
		out = append(out, p.checksum[:]...)
	}
	out = binary.AppendUvarint(out, uint64(len(b.after)))
	out = append(out, b.after...)
	out = binary.AppendUvarint(out, b.bytes)
	return appendNames(appendTables(appendTables(out, b.tables), b.lacking), b.withheld)
}

func decodeBuild(stored []byte) (*build, error) {
	if len(stored) == 0 || stored[0] == 0 || stored[0] > buildFormat {
		return nil, fmt.Errorf("%w: build of %d bytes", ErrCorrupt, len(stored))
	}
	r := numbers{b: stored[1:]}
	b := &build{generation: uint32(r.next())}
	flags := r.next()
	b.ended, b.rowsDone, b.indexing = flags&1 != 0, flags&2 != 0, flags&4 != 0
	b.newest, b.table, b.rows, b.total, b.catalogVersion = r.next(), uint32(r.next()), r.next(), r.next(), r.next()
	for _, p := range []*place{&b.begin, &b.at} {
		p.epoch, p.version = uint32(r.next()), r.next()
		r.checksum(&p.checksum)
	}
	b.after = r.bytes()
	if stored[0] > 1 {
		b.bytes = r.next()
	}
	b.tables = r.tables()
	if stored[0] > 1 {
		b.lacking = r.tables()
	}
	if stored[0] > 2 {
		b.withheld = r.names()
	}
	if r.bad || len(r.b) != 0 {
		return nil, fmt.Errorf("%w: build of another length", ErrCorrupt)
	}
	return b, nil
}

// loadBuild reads what a process before this one had made.
func (d *Database) loadBuild() error {
	stored, err := get(d.store.db, buildKey(d.id))
	if err != nil || stored == nil {
		return err
	}
	b, err := decodeBuild(stored)
	if err != nil {
		return err
	}
	stored, err = get(d.store.db, nextKey(d.id))
	if err != nil {
		return err
	}
	if b.catalog, err = decodeCatalog(stored); err != nil {
		return fmt.Errorf("%w: catalog of a build of database %d: %w", ErrCorrupt, d.id, err)
	}
	d.building.Store(b)
	return nil
}

// wants reports whether a table is part of the build.
func (b *build) wants(table uint32) bool { return b.tables == nil || slices.Contains(b.tables, table) }

// resume tells the primary what is there.
func (b *build) resume() *replicationv1.SnapshotRequest_Resume {
	r := &replicationv1.SnapshotRequest_Resume{
		Begin: b.begin.toProto(), TableId: b.table, AfterKey: b.after, TableDone: b.ended, Withheld: b.withheld,
	}
	if b.rowsDone {
		r.Records = b.at.toProto()
	}
	return r
}

// step writes a batch that f fills and makes the build that f made of b the present one.
func (d *Database) step(b *build, f func(batch *pebble.Batch, next *build) error) (*build, error) {
	if err := d.store.acquire(); err != nil {
		return nil, err
	}
	defer d.store.release()
	d.writer.Lock()
	defer d.writer.Unlock()
	if d.building.Load() != b || d.state.Load().problem == problemDropped {
		return nil, errBuildLost
	}
	var next build
	if b != nil {
		next = *b
	}
	batch := d.store.db.NewBatch()
	defer func() { _ = batch.Close() }() // gives memory back; there is nothing to lose
	if err := f(batch, &next); err != nil {
		return nil, err
	}
	if err := batch.Set(buildKey(d.id), next.encode(), nil); err != nil {
		return nil, err
	}
	if err := d.store.commit(batch); err != nil {
		return nil, err
	}
	d.building.Store(&next)
	return &next, nil
}

// startBuild begins a copy of a database, or of tables of it, under a generation of its own.
func (d *Database) startBuild(m *replicationv1.SnapshotBegin, tables []uint32) (*build, error) {
	return d.step(nil, func(batch *pebble.Batch, next *build) (err error) {
		a := d.state.Load()
		if a.lastGeneration() >= math.MaxUint32-1 {
			return fmt.Errorf("%w: no generation left", errBuild)
		}
		*next = build{generation: a.lastGeneration() + 1, tables: tables, total: m.GetRowCount(), withheld: m.GetWithheld()}
		if next.begin, err = placeOf(m.GetPosition()); err != nil {
			return err
		}
		next.at = next.begin
		return d.setNextCatalog(batch, next, m.GetCatalog(), m.GetCatalog().GetVersion())
	})
}

func (d *Database) setNextCatalog(batch *pebble.Batch, next *build, c *replicationv1.Catalog, version uint64) error {
	cat, err := catalog.FromProto(c)
	if err != nil {
		return fmt.Errorf("%w: %w", errBuild, err)
	}
	if err := checkIDs(cat); err != nil {
		return fmt.Errorf("%w: %w", errBuild, err)
	}
	stored, err := proto.Marshal(c)
	if err != nil {
		return fmt.Errorf("%w: %w", errBuild, err)
	}
	next.catalog, next.catalogVersion = cat, version
	return batch.Set(nextKey(d.id), stored, nil)
}

// discardBuild deletes the copy in the making, if there is one.
func (d *Database) discardBuild() error {
	if err := d.store.acquire(); err != nil {
		return err
	}
	defer d.store.release()
	d.writer.Lock()
	defer d.writer.Unlock()
	b := d.building.Load()
	if b == nil {
		return nil
	}
	batch := d.store.db.NewBatch()
	defer func() { _ = batch.Close() }() // gives memory back; there is nothing to lose
	lower, upper := generationRange(d.id, b.generation, b.generation+1)
	// The region may not have it any more: that may be why it is discarded.
	err := errors.Join(d.store.eraser.DeleteRange(batch, lower, upper), forgetBuild(batch, d.id))
	if err == nil {
		err = d.store.commit(batch)
	}
	if err != nil {
		return fmt.Errorf("discard snapshot of database %d: %w", d.id, err)
	}
	d.building.Store(nil)
	d.store.eraser.Wake()
	return nil
}

func forgetBuild(batch *pebble.Batch, database uint32) error {
	return errors.Join(batch.Delete(buildKey(database), nil), batch.Delete(nextKey(database), nil))
}

// SnapshotProgress is how far a snapshot is.
type SnapshotProgress struct {
	Rows, TotalRows uint64 // that are there; that there will be, about
	Bytes           uint64 // of the rows that are there: their keys and values
	Table           string // whose rows are being copied; empty before the first and when finishing
	Finishing       bool   // all rows are there; the rest of the log is applied and all is checked
}

// SnapshotProgress returns how far the snapshot is that is being taken of the database or of tables of it; ok is false where
// there is none.
func (d *Database) SnapshotProgress() (p SnapshotProgress, ok bool) {
	b := d.building.Load()
	if b == nil {
		return p, false
	}
	p = SnapshotProgress{Rows: b.rows, TotalRows: b.total, Bytes: b.bytes, Finishing: b.rowsDone}
	if t := b.catalog.TableByID(b.table); t != nil && !b.rowsDone {
		p.Table = t.Name
	}
	return p, true
}

// DivergedTables returns the ids of the tables that are not what the primary has. They are being copied anew, and cannot be
// read meanwhile.
func (d *Database) DivergedTables() []uint32 { return slices.Clone(d.state.Load().diverged) }

// TableName returns a table's name as far as it is known in memory, else its id.
func (d *Database) TableName(table uint32) string {
	if cat := d.state.Load().catalog.Load(); cat != nil {
		if t := cat.TableByID(table); t != nil {
			return t.Name
		}
	}
	return strconv.FormatUint(uint64(table), 10)
}
