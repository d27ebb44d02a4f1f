package sidecar

import (
	"context"
	"errors"
	"fmt"

	"github.com/nearside-dev/nearside/internal/access"
	"github.com/nearside-dev/nearside/internal/meshdb"
	"github.com/nearside-dev/nearside/internal/rowcodec"
	"github.com/nearside-dev/nearside/internal/value"
	"github.com/nearside-dev/nearside/sidecar/replica"
)

// callers is the region's copy of _mesh as package access reads it.
type callers struct {
	store     *replica.Store
	connected func() bool
}

var _ access.Source = (*callers)(nil)

// Version implements access.Source.
func (c *callers) Version() (access.Version, bool) {
	epoch, version, ok := meshVersion(c.store)
	return access.Version{Epoch: epoch, Version: version}, ok
}

// Wait implements access.Source.
func (c *callers) Wait(ctx context.Context, v access.Version) {
	if mesh, ok := c.store.Database(meshdb.DatabaseID); ok {
		_ = mesh.WaitFor(ctx, v.Epoch, v.Version) // the caller looks at what there is then
	}
}

// Connected implements access.Source.
func (c *callers) Connected() bool { return c.connected() }

// Read implements access.Source.
func (c *callers) Read(f func(table string, values []value.Value) error) (access.Version, error) {
	epoch, version, err := readMesh(c.store, meshdb.AccessTables, f)
	return access.Version{Epoch: epoch, Version: version}, err
}

// eachOf calls f with the named columns of a table's rows; there are none where there is no such table yet.
func eachOf(snap *replica.Snapshot, name string, columns []string, f func(string, []value.Value) error) (err error) {
	t := snap.Catalog().TableByName(name)
	if t == nil {
		return nil
	}
	places := make([]int, len(columns))
	for i, column := range columns {
		if places[i] = t.ColumnByName(column); places[i] < 0 {
			return fmt.Errorf("%w: %s has no %s", meshdb.ErrRow, name, column)
		}
	}
	it, err := snap.NewRowIter(t, nil, nil, false)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, it.Close()) }()
	var row rowcodec.Row
	values := make([]value.Value, len(columns))
	for it.Next() {
		stored, _, err := it.Value()
		if err != nil {
			return err
		}
		if err := rowcodec.DecodeRowInto(&row, t, it.Key(), stored); err != nil {
			return err
		}
		for i, place := range places {
			values[i] = row.Values[place]
		}
		if err := f(name, values); err != nil {
			return err
		}
	}
	return it.Err()
}
