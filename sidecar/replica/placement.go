package replica

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"google.golang.org/protobuf/proto"

	replicationv1 "github.com/nearside-dev/nearside/gen/nearside/replication/v1"
	"github.com/nearside-dev/nearside/internal/catalog"
)

// capabilityPlacement is the ability to do without what the region may not hold.
const capabilityPlacement = "placement"

// ApplyPlacement keeps of a copy what the region may hold from now on. What it may not is deleted with the log's tail, in one batch
// with the new schema, and its bytes leave the disk in the background; a table that it may hold and has not is to be copied, as one
// that differs is. Doing it twice is doing it once. Errors are ErrGap where the copy is at another version, ErrRecord, the copy's own
// problem, and those of the store.
func (s *Store) ApplyPlacement(m *replicationv1.Placement) error {
	if err := s.acquire(); err != nil {
		return err
	}
	defer s.release()
	d, ok := s.Database(m.GetDatabaseId())
	if !ok {
		return fmt.Errorf("placement of database %d: %w", m.GetDatabaseId(), ErrDropped)
	}
	d.writer.Lock()
	defer d.writer.Unlock()
	if err := d.place(m); err != nil {
		return fmt.Errorf("placement of database %d: %w", d.id, err)
	}
	return nil
}

// place applies a placement. The caller holds d.writer.
func (d *Database) place(m *replicationv1.Placement) error {
	a := d.state.Load()
	switch {
	case a.problem == problemDropped || a.problem == problemDiverged:
		return a.problem.err()
	case a.version != m.GetVersion():
		return fmt.Errorf("%w: at version %d, the copy is at %d", ErrGap, m.GetVersion(), a.version)
	case !slices.IsSorted(m.GetWithheld()):
		return fmt.Errorf("%w: names that are not sorted", ErrRecord)
	}
	old, err := a.loadCatalog(d.store.db, d.id)
	if err != nil {
		return err
	}
	cat, err := catalog.FromProto(m.GetCatalog())
	if err != nil {
		return fmt.Errorf("%w: %w", ErrRecord, err)
	}
	if err := checkIDs(cat); err != nil {
		return err
	}
	next := *a
	next.withheld = slices.Clone(m.GetWithheld())
	p := placing{database: d, batch: d.store.db.NewBatch(), next: &next}
	defer func() { _ = p.batch.Close() }() // gives memory back; there is nothing to lose
	if err := p.changeCatalog(m.GetCatalog(), cat); err != nil {
		return err
	}
	for _, t := range cat.Tables {
		if old.TableByID(t.ID) == nil {
			next.diverge(t.ID)
		}
	}
	if err := p.remove(old, cat); err != nil {
		return err
	}
	b, err := p.discardBuild()
	if err != nil {
		return err
	}
	if lost := lostNames(a.withheld, next.withheld); len(lost) > 0 {
		if err := p.forgetPast(); err != nil {
			return err
		}
		d.store.logger.Info("tables are withheld from this region and deleted here", slog.Uint64("database", uint64(d.id)),
			slog.Int("names", len(lost)))
	}
	if err := p.batch.Set(stateKey(d.id), next.encode(), nil); err != nil {
		return err
	}
	if err := d.commitErasing(p.batch, &next); err != nil {
		return err
	}
	if b != nil {
		d.building.Store(nil)
	}
	d.store.erase(d.id)
	return nil
}

// lostNames returns the names that are withheld now and were not before.
func lostNames(before, now []string) (lost []string) {
	for _, name := range now {
		if _, found := slices.BinarySearch(before, name); !found {
			lost = append(lost, name)
		}
	}
	return lost
}

// placing is a placement being applied.
type placing struct {
	database *Database
	batch    *pebble.Batch
	next     *applied
}

func (p *placing) changeCatalog(encoded *replicationv1.Catalog, cat *catalog.Catalog) error {
	p.next.catalogVersion = cat.Version
	p.next.catalog = new(atomic.Pointer[catalog.Catalog])
	if cat.Version == 0 {
		return p.batch.Delete(catalogKey(p.database.id), nil)
	}
	stored, err := proto.Marshal(encoded)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrRecord, err)
	}
	p.next.catalog.Store(cat)
	return p.batch.Set(catalogKey(p.database.id), stored, nil)
}

// remove deletes the tables that are not in the schema any more.
func (p *placing) remove(old, cat *catalog.Catalog) error {
	if old == nil {
		return nil
	}
	id := p.database.id
	for _, t := range old.Tables {
		if cat.TableByID(t.ID) != nil {
			continue
		}
		lower, upper := tableRange(id, p.next.generationOf(t.ID), t.ID)
		if err := p.database.store.eraser.DeleteRange(p.batch, lower, upper); err != nil {
			return err
		}
		if err := p.batch.Delete(sumKey(id, t.ID), nil); err != nil {
			return err
		}
		p.next.forget(t.ID)
	}
	return nil
}

// discardBuild deletes the copy in the making, which was made by what the region might hold before.
func (p *placing) discardBuild() (*build, error) {
	b := p.database.building.Load()
	if b == nil {
		return nil, nil //nolint:nilnil // there is none
	}
	lower, upper := generationRange(p.database.id, b.generation, b.generation+1)
	return b, errors.Join(p.database.store.eraser.DeleteRange(p.batch, lower, upper), forgetBuild(p.batch, p.database.id))
}

// forgetPast deletes the tail, whose records may have rows of what was removed, and has all that was deleted or written over before
// leave the disk too: rows as they once were, and schemas.
func (p *placing) forgetPast() error {
	eraser, id := p.database.store.eraser, p.database.id
	p.next.tailFirst, p.next.tailBytes = p.next.version+1, 0
	for _, space := range []byte{spaceTail, spaceOld} {
		lower, upper := spaceRange(id, space)
		if err := p.batch.DeleteRange(lower, upper, nil); err != nil {
			return err
		}
	}
	lower, upper := databaseRange(id)
	return eraser.Erase(p.batch, lower, upper)
}

// erase has what was deleted of a database leave the disk, and the memory of those who keep something of it beside its answers.
func (s *Store) erase(database uint32) {
	if s.options.OnErase != nil {
		s.options.OnErase(database)
	}
	s.eraser.Wake()
}

// readers counts the snapshots that are open, so that one can wait for those that were opened before.
type readers struct {
	epoch atomic.Uint32
	count [2]atomic.Int64
}

// enter counts a snapshot that is about to be opened, and returns what leave wants.
func (r *readers) enter() uint32 {
	e := r.epoch.Load() & 1
	r.count[e].Add(1)
	return e
}

func (r *readers) leave(e uint32) { r.count[e].Add(-1) }

// await returns when no snapshot is open that was opened before it was called, or when ctx ends. One call at a time.
func (r *readers) await(ctx context.Context) {
	ticker := time.NewTicker(readersPause)
	defer ticker.Stop()
	// Twice: one that was late to count itself may be among those of the other epoch.
	for range 2 {
		e := (r.epoch.Add(1) - 1) & 1
		for r.count[e].Load() > 0 {
			select {
			case <-ticker.C:
			case <-ctx.Done():
				return
			}
		}
	}
}

// readersPause is how often readers looks whether those that it waits for have gone. A statement may take seconds.
const readersPause = 10 * time.Millisecond

// placement does what the primary says of what the region may hold of a database.
func (s *session) placement(m *replicationv1.Placement) error {
	c := s.f.copies[m.GetDatabaseId()]
	if c == nil || !c.asked {
		return nil
	}
	if _, version := c.database.Applied(); version != m.GetVersion() && c.again {
		return nil // of before it was asked for again
	}
	if c.cancelFetch != nil {
		c.cancelFetch() // by what the region might hold before
	}
	s.watchdog.Stop()
	err := s.f.store.ApplyPlacement(m)
	s.heard()
	switch {
	case err == nil:
		if len(c.database.state.Load().diverged) > 0 {
			s.diverged[c.id] = c
			s.repair(time.Now())
		}
		return nil
	case errors.Is(err, ErrStoreFailed), errors.Is(err, ErrClosed):
		return err
	}
	s.f.logger.Error("placement not applied", slog.Uint64("database", uint64(c.id)), slog.Any("error", err))
	if err := s.unfollow(c); err != nil {
		return err
	}
	s.retryRefused(c)
	return nil
}

// Withheld returns the names of the tables, in lower case, that the copy does without because its region may not hold them.
func (d *Database) Withheld() []string { return slices.Clone(d.state.Load().withheld) }

// Withheld returns the names of the tables, in lower case and ascending, that the snapshot does without.
func (s *Snapshot) Withheld() []string { return s.applied.withheld }

// HasTable reports whether the copy has a table of an id, as far as its schema is known in memory.
func (d *Database) HasTable(id uint32) bool {
	cat := d.state.Load().catalog.Load()
	return cat != nil && cat.TableByID(id) != nil
}
