package readpath

import (
	"slices"

	"github.com/nearside-dev/nearside/internal/catalog"
	"github.com/nearside-dev/nearside/internal/meshdb"
	"github.com/nearside-dev/nearside/internal/placement"
	"github.com/nearside-dev/nearside/internal/value"
	"github.com/nearside-dev/nearside/sidecar/replica"
)

// readPlacements reads from a snapshot of _mesh which regions may hold what.
func readPlacements(snap *replica.Snapshot) (map[uint32]placement.Database, error) {
	all := make(map[uint32]placement.Database)
	err := eachRow(snap, meshdb.TablePlacements, func(t *catalog.Table, values []value.Value) error {
		id, region, err := meshdb.PlacementFromRow(t, values)
		d := all[id]
		d.Regions = append(d.Regions, region)
		all[id] = d
		return err
	})
	if err != nil {
		return nil, err
	}
	err = eachRow(snap, meshdb.TableTablePlacements, func(t *catalog.Table, values []value.Value) error {
		id, name, region, err := meshdb.TablePlacementFromRow(t, values)
		d := all[id]
		if d.Tables == nil {
			d.Tables = make(map[string][]string)
		}
		name = catalog.Fold(name)
		d.Tables[name] = append(d.Tables[name], region)
		all[id] = d
		return err
	})
	return all, err
}

// Elsewhere returns the other regions that may hold a table which this one may not, the primary's first, then by name. here is true,
// and there are none, where this region may hold it or does not know of it.
func (p *Path) Elsewhere(database, table string) (regions []meshdb.Region, here bool) {
	l, err := p.directory.latest(true)
	if err != nil {
		return nil, true // whoever answers says why
	}
	d := l.byName[database]
	if d == nil {
		return nil, true
	}
	placed := l.placed[d.id]
	if placed.AllowsTable(table, p.directory.region) {
		return nil, true
	}
	for _, r := range l.regions {
		if r.Name != p.directory.region && placed.AllowsTable(table, r.Name) {
			regions = append(regions, r)
		}
	}
	primaryFirst(regions)
	return regions, false
}

// ElsewhereWhole returns the other regions that may hold all of a database, the primary's first, then by name. needed is true
// where this one may not hold any of it; it may lack tables otherwise.
func (p *Path) ElsewhereWhole(database string) (regions []meshdb.Region, needed bool) {
	l, err := p.directory.latest(true)
	if err != nil {
		return nil, false // whoever answers says why
	}
	d := l.byName[database]
	if d == nil {
		return nil, false
	}
	placed := l.placed[d.id]
	for _, r := range l.regions {
		if r.Name == p.directory.region || !placed.Allows(r.Name) {
			continue
		}
		whole := true
		for table := range placed.Tables {
			whole = whole && placed.AllowsTable(table, r.Name)
		}
		if whole {
			regions = append(regions, r)
		}
	}
	primaryFirst(regions)
	return regions, !placed.Allows(p.directory.region)
}

// primaryFirst moves the primary's region to the front.
func primaryFirst(regions []meshdb.Region) {
	slices.SortStableFunc(regions, func(a, b meshdb.Region) int {
		switch {
		case a.IsPrimary == b.IsPrimary:
			return 0
		case a.IsPrimary:
			return -1
		default:
			return 1
		}
	})
}
