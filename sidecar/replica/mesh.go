package replica

import (
	"errors"
	"fmt"

	"github.com/nearside-dev/nearside/internal/catalog"
	"github.com/nearside-dev/nearside/internal/meshdb"
	"github.com/nearside-dev/nearside/internal/rowcodec"
	"github.com/nearside-dev/nearside/internal/value"
)

// meshPlan is which databases a region has to hold, by id, with their names.
type meshPlan struct {
	names map[uint32]string
	// stamp identifies the contents that the plan was made from: most changes of _mesh are of other tables.
	stamp [2]tableSum
}

// readPlan reads the plan from the copy of _mesh. ok is false where the copy cannot say: it is not served, or empty. The plan
// is nil where its contents still are those of stamp.
func (s *Store) readPlan(region string, stamp [2]tableSum) (plan *meshPlan, ok bool, err error) {
	mesh, found := s.Database(meshdb.DatabaseID)
	if !found {
		return nil, false, nil
	}
	snap, err := mesh.Snapshot()
	if errors.Is(err, ErrSyncing) || errors.Is(err, ErrFork) || errors.Is(err, ErrFollowerAhead) ||
		errors.Is(err, ErrDiverged) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, err
	}
	defer func() { err = errors.Join(err, snap.Close()) }()
	databases := snap.Catalog().TableByName(meshdb.TableDatabases)
	placements := snap.Catalog().TableByName(meshdb.TablePlacements)
	if databases == nil || placements == nil {
		return nil, false, nil
	}
	plan = &meshPlan{names: make(map[uint32]string)}
	for i, t := range []*catalog.Table{databases, placements} {
		if plan.stamp[i], err = readSum(snap.snap, snap.id, t.ID); err != nil {
			return nil, false, err
		}
	}
	if plan.stamp == stamp {
		return nil, true, nil
	}
	err = snap.eachRow(databases, func(values []value.Value) error {
		d, err := meshdb.DatabaseFromRow(databases, values)
		plan.names[d.ID] = d.Name
		return err
	})
	if err != nil {
		return nil, false, err
	}
	elsewhere := make(map[uint32]bool) // placed, but not here as far as seen
	err = snap.eachRow(placements, func(values []value.Value) error {
		id, placed, err := meshdb.PlacementFromRow(placements, values)
		if placed == region {
			elsewhere[id] = false
		} else if _, seen := elsewhere[id]; !seen {
			elsewhere[id] = true
		}
		return err
	})
	if err != nil {
		return nil, false, err
	}
	for id, there := range elsewhere {
		if there {
			delete(plan.names, id)
		}
	}
	return plan, true, nil
}

// eachRow calls f with the values of each row of a table. They are valid during the call.
func (s *Snapshot) eachRow(t *catalog.Table, f func([]value.Value) error) (err error) {
	it, err := s.NewRowIter(t, nil, nil, false)
	if err != nil {
		return err
	}
	defer func() {
		if err = errors.Join(err, it.Close()); err != nil {
			err = fmt.Errorf("read table %s of database %d: %w", t.Name, s.id, err)
		}
	}()
	var row rowcodec.Row
	for it.Next() {
		stored, _, err := it.Value()
		if err != nil {
			return err
		}
		if err := rowcodec.DecodeRowInto(&row, t, it.Key(), stored); err != nil {
			return err
		}
		if err := f(row.Values); err != nil {
			return err
		}
	}
	return it.Err()
}
