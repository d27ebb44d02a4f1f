package readpath

import (
	"cmp"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/nearside-dev/nearside/internal/bookmark"
	"github.com/nearside-dev/nearside/internal/catalog"
	"github.com/nearside-dev/nearside/internal/keyread"
	"github.com/nearside-dev/nearside/internal/meshdb"
	"github.com/nearside-dev/nearside/internal/placement"
	"github.com/nearside-dev/nearside/internal/rowcodec"
	"github.com/nearside-dev/nearside/internal/value"
	"github.com/nearside-dev/nearside/sidecar/replica"
)

// Directory is what a region's copy of _mesh says: which databases and regions there are. It is read again when the copy has
// changed and somebody asks. It may be used concurrently.
type Directory struct {
	store  *replica.Store
	region string

	reading sync.Mutex // held while the copy is read
	current atomic.Pointer[listing]
}

// listing is the directory at one version of _mesh. It is immutable.
type listing struct {
	epoch   uint32
	version uint64
	byName  map[string]*Database
	regions []meshdb.Region
	revoked map[string]bool               // nodes
	joined  map[string]bool               // regions that have a node
	placed  map[uint32]placement.Database // those that not all regions may hold whole
}

// Database is a database as the region knows it.
type Database struct {
	id     uint32
	name   string
	placed bool

	mark   atomic.Pointer[mark]   // the last one given out
	shapes atomic.Pointer[shapes] // of the newest catalog
}

// ID returns the database's id.
func (d *Database) ID() uint32 { return d.id }

// Name returns the database's name.
func (d *Database) Name() string { return d.name }

// Placed reports whether the region is to have a copy.
func (d *Database) Placed() bool { return d.placed }

// NewDirectory returns the directory of a store in a region.
func NewDirectory(store *replica.Store, region string) *Directory {
	return &Directory{store: store, region: region}
}

// Databases returns all databases but _mesh, by name. The error says why the copy of _mesh cannot be read; there is none where
// it was readable before.
func (d *Directory) Databases() ([]*Database, error) {
	l, err := d.latest(true)
	if err != nil {
		return nil, err
	}
	all := make([]*Database, 0, len(l.byName))
	for _, db := range l.byName {
		if db.id != meshdb.DatabaseID {
			all = append(all, db)
		}
	}
	slices.SortFunc(all, func(a, b *Database) int { return cmp.Compare(a.name, b.name) })
	return all, nil
}

// Regions returns all regions, by name. The error is Databases'.
func (d *Directory) Regions() ([]meshdb.Region, error) {
	l, err := d.latest(true)
	if err != nil {
		return nil, err
	}
	return l.regions, nil
}

// Revoked reports whether a node of the mesh is known to be revoked.
func (d *Directory) Revoked(node string) bool {
	l, err := d.latest(true)
	return err == nil && l.revoked[node]
}

// Joined reports whether the gateway at a host, host:port, is of a region that has a node. Where nobody can tell, it is.
func (d *Directory) Joined(host string) bool {
	l, err := d.latest(true)
	return err != nil || slices.ContainsFunc(l.regions, func(r meshdb.Region) bool {
		u, err := url.Parse(r.URL)
		return err == nil && u.Host == host && l.joined[r.Name]
	})
}

// MeshProblem returns how the copy of _mesh contradicts the primary, as it does after the primary was restored from an older
// image, or nil if it does not.
func (d *Directory) MeshProblem() error {
	mesh, ok := d.store.Database(meshdb.DatabaseID)
	if !ok {
		return nil
	}
	if err := mesh.Problem(); errors.Is(err, replica.ErrFork) || errors.Is(err, replica.ErrFollowerAhead) {
		return err
	}
	return nil
}

// find returns the database of a name, or nil if the copy of _mesh has none or cannot be read, or contradicts the primary: the
// name may be another database's now. With wait set the directory is as new as the copy is now; else it may be one that
// another read is about to replace.
func (d *Directory) find(name string, wait bool) *Database {
	if d.MeshProblem() != nil {
		return nil
	}
	l, err := d.latest(wait)
	if err != nil {
		return nil // the primary knows
	}
	return l.byName[name]
}

func (d *Directory) latest(wait bool) (*listing, error) {
	mesh, ok := d.store.Database(meshdb.DatabaseID)
	if !ok {
		return nil, replica.ErrSyncing
	}
	l := d.current.Load()
	if l.isOf(mesh) {
		return l, nil
	}
	switch {
	case wait || l == nil:
		d.reading.Lock()
	case !d.reading.TryLock():
		return l, nil
	}
	defer d.reading.Unlock()
	if l = d.current.Load(); l.isOf(mesh) {
		return l, nil
	}
	next, err := d.read(mesh, l)
	if err != nil && l != nil {
		return l, nil // what it said last is still the best that is known here
	}
	if err != nil {
		return nil, err
	}
	d.current.Store(next)
	return next, nil
}

func (l *listing) isOf(mesh *replica.Database) bool {
	if l == nil {
		return false
	}
	epoch, version := mesh.Applied()
	return l.epoch == epoch && l.version == version
}

// read reads the copy of _mesh. Databases that were there before stay the same, with what is cached for them.
func (d *Directory) read(mesh *replica.Database, old *listing) (l *listing, err error) {
	snap, err := mesh.Snapshot()
	if err != nil {
		return nil, err
	}
	defer func() {
		if err = errors.Join(err, snap.Close()); err != nil {
			err = fmt.Errorf("read copy of %s: %w", meshdb.Name, err)
		}
	}()
	l = &listing{epoch: snap.Epoch(), version: snap.Version(), byName: make(map[string]*Database), revoked: make(map[string]bool), joined: make(map[string]bool)}
	if l.placed, err = readPlacements(snap); err != nil {
		return nil, err
	}
	add := func(row meshdb.Database) {
		db := &Database{id: row.ID, name: row.Name, placed: l.placed[row.ID].Allows(d.region)}
		if old != nil {
			if was := old.byName[row.Name]; was != nil && was.id == db.id && was.placed == db.placed {
				db = was
			}
		}
		l.byName[row.Name] = db
	}
	add(meshdb.Database{ID: meshdb.DatabaseID, Name: meshdb.Name})
	err = eachRow(snap, meshdb.TableDatabases, func(t *catalog.Table, values []value.Value) error {
		row, err := meshdb.DatabaseFromRow(t, values)
		if err == nil {
			add(row)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	err = eachRow(snap, meshdb.TableRegions, func(t *catalog.Table, values []value.Value) error {
		region, err := meshdb.RegionFromRow(t, values)
		l.regions = append(l.regions, region)
		return err
	})
	if err != nil {
		return nil, err
	}
	err = eachRow(snap, meshdb.TableNodes, func(t *catalog.Table, values []value.Value) error {
		node, err := meshdb.NodeFromRow(t, values)
		if err == nil && node.RevokedAt != 0 {
			l.revoked[node.ID] = true
		} else if err == nil {
			l.joined[node.Region] = true
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	slices.SortFunc(l.regions, func(a, b meshdb.Region) int { return cmp.Compare(a.Name, b.Name) })
	return l, nil
}

// eachRow calls f with the rows of a table of _mesh, if there is such a table yet. The values are valid during the call.
func eachRow(snap *replica.Snapshot, table string, f func(*catalog.Table, []value.Value) error) (err error) {
	t := snap.Catalog().TableByName(table)
	if t == nil {
		return nil
	}
	it, err := snap.NewRowIter(t, nil, nil, false)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, it.Close()) }()
	var row rowcodec.Row
	for it.Next() {
		stored, _, err := it.Value()
		if err != nil {
			return err
		}
		if err := rowcodec.DecodeRowInto(&row, t, it.Key(), stored); err != nil {
			return err
		}
		if err := f(t, row.Values); err != nil {
			return err
		}
	}
	return it.Err()
}

// mark is a bookmark and its text, which costs a MAC to make.
type mark struct {
	codec *bookmark.Codec
	bookmark.Bookmark

	text   string
	header []string // the text alone
}

// bookmark returns the text of a bookmark of the database.
func (d *Database) bookmark(codec *bookmark.Codec, epoch uint32, version uint64) string {
	return d.markOf(codec, epoch, version).text
}

func (d *Database) markOf(codec *bookmark.Codec, epoch uint32, version uint64) *mark {
	b := bookmark.Bookmark{DatabaseID: d.id, Epoch: epoch, Version: version}
	if m := d.mark.Load(); m != nil && m.codec == codec && m.Bookmark == b {
		return m
	}
	m := &mark{codec: codec, Bookmark: b, text: codec.Encode(b)}
	m.header = []string{m.text}
	d.mark.Store(m)
	return m
}

// shapes are the shapes of a catalog's tables.
type shapes struct {
	catalog *catalog.Catalog
	byTable map[*catalog.Table]*keyread.Shape
	byName  map[string]*nowTable // those that can be read at once
}

// shapesOf returns the shapes of a catalog.
func (d *Database) shapesOf(cat *catalog.Catalog) *shapes {
	s := d.shapes.Load()
	if s != nil && s.catalog == cat {
		return s
	}
	s = &shapes{
		catalog: cat, byTable: make(map[*catalog.Table]*keyread.Shape, len(cat.Tables)),
		byName: make(map[string]*nowTable, len(cat.Tables)),
	}
	for _, t := range cat.Tables {
		if now := newNowTable(t); now != nil {
			s.byName[t.Name], s.byTable[t] = now, now.shape
		} else {
			s.byTable[t] = keyread.NewShape(t)
		}
	}
	d.shapes.Store(s)
	return s
}

// shape returns the shape of a table's rows. The table is one of the catalog's.
func (d *Database) shape(cat *catalog.Catalog, t *catalog.Table) *keyread.Shape {
	return d.shapesOf(cat).byTable[t]
}
