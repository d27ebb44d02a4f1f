package registry

import (
	"context"
	"slices"

	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/internal/catalog"
	"github.com/nearside-dev/nearside/internal/identity"
	"github.com/nearside-dev/nearside/internal/meshdb"
	"github.com/nearside-dev/nearside/internal/placement"
	"github.com/nearside-dev/nearside/internal/policy"
	"github.com/nearside-dev/nearside/internal/rpcerr"
	"github.com/nearside-dev/nearside/internal/value"
	"github.com/nearside-dev/nearside/services/data/engine"
)

// MaxTablePlacements is how many tables of one database can have a placement of their own.
const MaxTablePlacements = 1000

// TablePlacement is the regions that may hold a table, by the name that was given.
type TablePlacement struct {
	Table   string
	Regions []string
}

// Placement returns which regions may hold what, as it is now. It costs an atomic load.
func (r *Registry) Placement() *placement.Rules { return r.rules.Load() }

// Regions returns the regions that may hold the database; none means all.
func (d *Database) Regions() []string {
	if p := d.placed.Load(); p != nil {
		return p.regions
	}
	return nil
}

// TablePlacements returns the tables that fewer regions may hold, by name.
func (d *Database) TablePlacements() []TablePlacement {
	if p := d.placed.Load(); p != nil {
		return p.tables
	}
	return nil
}

// placed is a database's placement as it is shown. It is immutable.
type placed struct {
	regions []string
	tables  []TablePlacement
}

func (p *placed) rules() placement.Database {
	d := placement.Database{Regions: p.regions}
	for _, t := range p.tables {
		if d.Tables == nil {
			d.Tables = make(map[string][]string)
		}
		d.Tables[catalog.Fold(t.Table)] = t.Regions
	}
	return d
}

// place has a database's placement known and applied.
func (r *Registry) place(d *Database, p *placed) {
	d.placed.Store(p)
	r.limit(d.id, p.rules())
}

func (r *Registry) limit(id uint32, d placement.Database) {
	r.placing.Lock()
	defer r.placing.Unlock()
	r.rules.Store(r.rules.Load().With(id, d))
}

// readPlacements reads the placements of databases from _mesh.
func (r *Registry) readPlacements(ctx context.Context, byID map[uint32]*Database) error {
	all := make(map[uint32]*placed)
	of := func(v value.Value) *placed {
		id := uint32(v.Integer())
		if all[id] == nil {
			all[id] = &placed{}
		}
		return all[id]
	}
	err := r.query(ctx, "SELECT database_id, region FROM placements ORDER BY region", func(vs []value.Value) {
		p := of(vs[0])
		p.regions = append(p.regions, vs[1].Text())
	})
	if err != nil {
		return err
	}
	err = r.query(ctx, "SELECT database_id, table_name, region FROM table_placements ORDER BY 1, 2, 3", func(vs []value.Value) {
		p := of(vs[0])
		if n := len(p.tables); n == 0 || catalog.Fold(p.tables[n-1].Table) != catalog.Fold(vs[1].Text()) {
			p.tables = append(p.tables, TablePlacement{Table: vs[1].Text()})
		}
		t := &p.tables[len(p.tables)-1]
		t.Regions = append(t.Regions, vs[2].Text())
	})
	if err != nil {
		return err
	}
	for id, p := range all {
		if d := byID[id]; d != nil {
			r.place(d, p)
		}
	}
	return nil
}

// SetPlacement says which regions may hold a database, or a table of it where there is one named. None means all. The commit is
// of _mesh, and is nil where nothing changes. From when it returns nothing more is sent to a region that may not have it.
func (r *Registry) SetPlacement(
	ctx context.Context, database, table string, regions []string,
) (*Database, *engine.Commit, error) {
	if database == meshdb.Name {
		return nil, nil, rpcerr.New(datav1.ErrorReason_ERROR_REASON_STATEMENT_DENIED, "database %s is in all regions", database).
			With("action", "place "+database)
	}
	r.changing.Lock()
	defer r.changing.Unlock()
	d, err := r.Database(database)
	if err != nil {
		return nil, nil, err
	}
	now := placed{regions: d.Regions(), tables: d.TablePlacements()}
	next := now
	regions = slices.Compact(slices.Sorted(slices.Values(regions)))
	var ops []engine.Operation
	if table == "" {
		if slices.Equal(regions, now.regions) {
			return d, nil, nil
		}
		next.regions = regions
		ops = append(ops, engine.SQL("DELETE FROM placements WHERE database_id = ?1", value.Integer(int64(d.id))))
		for _, region := range regions {
			ops = append(ops, engine.SQL("INSERT INTO placements (database_id, region) VALUES (?1, ?2)",
				value.Integer(int64(d.id)), value.Text(region)))
		}
	} else {
		var same bool
		if next.tables, same, err = placeTable(now.tables, table, regions); err != nil || same {
			return d, nil, err
		}
		ops = append(ops, engine.SQL("DELETE FROM table_placements WHERE database_id = ?1 AND table_name = ?2",
			value.Integer(int64(d.id)), value.Text(table)))
		for _, region := range regions {
			ops = append(ops, engine.SQL("INSERT INTO table_placements (database_id, table_name, region) VALUES (?1, ?2, ?3)",
				value.Integer(int64(d.id)), value.Text(table), value.Text(region)))
		}
	}
	// While the commit is on its way both hold: nothing is sent that one of them keeps back.
	r.limit(d.id, now.rules().And(next.rules()))
	commit, err := r.mesh.Transact(ctx, &engine.Transaction{Operations: ops, Actor: identity.From(ctx).Actor()})
	if err != nil {
		r.place(d, &now)
		return nil, nil, err
	}
	r.place(d, &next)
	return d, commit, nil
}

// placeTable returns the placements with another one for a table, and whether they are the same as before.
func placeTable(now []TablePlacement, table string, regions []string) (next []TablePlacement, same bool, err error) {
	name := catalog.Fold(table)
	at, found := slices.BinarySearchFunc(now, name, func(t TablePlacement, name string) int {
		switch folded := catalog.Fold(t.Table); {
		case folded < name:
			return -1
		case folded > name:
			return 1
		default:
			return 0
		}
	})
	switch {
	case found && slices.Equal(now[at].Regions, regions), !found && len(regions) == 0:
		return now, true, nil
	case found && len(regions) == 0:
		return slices.Delete(slices.Clone(now), at, at+1), false, nil
	case found:
		next = slices.Clone(now)
		next[at] = TablePlacement{Table: table, Regions: regions}
		return next, false, nil
	case len(now) >= MaxTablePlacements:
		return nil, false, rpcerr.New(datav1.ErrorReason_ERROR_REASON_OVERLOADED,
			"a database has at most %d tables with a placement of their own", MaxTablePlacements)
	default:
		return slices.Insert(slices.Clone(now), at, TablePlacement{Table: table, Regions: regions}), false, nil
	}
}

// checkRename is the engine's question whether a table may take another name.
func (r *Registry) checkRename(id uint32) func(table, name string) error {
	return func(table, name string) error {
		if r.Placement().Of(id).SameTable(table, name) {
			return r.checkPolicies(id, table, name)
		}
		return rpcerr.New(datav1.ErrorReason_ERROR_REASON_PLACEMENT_DIFFERS,
			"table %s cannot be renamed to %s, which is limited to other regions: place the new name as the old one first", table, name).
			With("table", table).With("name", name)
	}
}

// checkPolicies returns STATEMENT_DENIED where a table would be taken from under a policy that names it.
func (r *Registry) checkPolicies(id uint32, table, name string) error {
	d, ok := r.ByID(id)
	if !ok || catalog.Fold(table) == catalog.Fold(name) {
		return nil
	}
	by := ""
	err := r.query(context.Background(), "SELECT name, text FROM policies ORDER BY name", func(vs []value.Value) {
		if by == "" && policy.Names(vs[1].Text(), d.Name, table) {
			by = vs[0].Text()
		}
	})
	if err != nil || by == "" {
		return err
	}
	return rpcerr.New(datav1.ErrorReason_ERROR_REASON_STATEMENT_DENIED,
		"table %s cannot be renamed to %s: policy %s names it, and would be of no table then", table, name, by).
		With("action", "rename "+table).With("policy", "policy:"+by)
}

// Unknown returns those of the regions that are not there yet.
func (r *Registry) Unknown(ctx context.Context, regions []string) (unknown []string, err error) {
	known, err := r.Regions(ctx)
	if err != nil {
		return nil, err
	}
	for _, name := range regions {
		if !slices.ContainsFunc(known, func(k meshdb.Region) bool { return k.Name == name }) {
			unknown = append(unknown, name)
		}
	}
	return unknown, nil
}
