package sidecar

import (
	"errors"
	"fmt"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/nearside-dev/nearside/internal/meshdb"
	"github.com/nearside-dev/nearside/internal/value"
	"github.com/nearside-dev/nearside/sidecar/gateway"
	"github.com/nearside-dev/nearside/sidecar/mesh"
	"github.com/nearside-dev/nearside/sidecar/readpath"
	"github.com/nearside-dev/nearside/sidecar/replica"
)

// services is the region's copy of _mesh as package mesh reads it.
type services struct{ store *replica.Store }

var _ mesh.Source = services{}

// Version implements mesh.Source.
func (s services) Version() (mesh.Version, bool) {
	epoch, version, ok := meshVersion(s.store)
	return mesh.Version{Epoch: epoch, Version: version}, ok
}

// Read implements mesh.Source.
func (s services) Read(f func(table string, values []value.Value) error) (mesh.Version, error) {
	epoch, version, err := readMesh(s.store, meshdb.ServiceTables, f)
	return mesh.Version{Epoch: epoch, Version: version}, err
}

// meshVersion returns how far the region's copy of _mesh is; ok is false where there is none yet.
func meshVersion(store *replica.Store) (epoch uint32, version uint64, ok bool) {
	db, ok := store.Database(meshdb.DatabaseID)
	if !ok {
		return 0, 0, false
	}
	epoch, version = db.Applied()
	return epoch, version, true
}

// readMesh calls f with the columns of each row of tables of the region's copy of _mesh, all of one state, which it returns.
func readMesh(
	store *replica.Store, tables []meshdb.TableColumns, f func(table string, values []value.Value) error,
) (epoch uint32, version uint64, err error) {
	db, ok := store.Database(meshdb.DatabaseID)
	if !ok {
		return 0, 0, replica.ErrSyncing
	}
	snap, err := db.Snapshot()
	if err != nil {
		return 0, 0, err
	}
	defer func() {
		if err = errors.Join(err, snap.Close()); err != nil {
			err = fmt.Errorf("read copy of %s: %w", meshdb.Name, err)
		}
	}()
	for _, t := range tables {
		if err := eachOf(snap, t.Name, t.Columns, f); err != nil {
			return 0, 0, err
		}
	}
	return snap.Epoch(), snap.Version(), nil
}

// foreign is what a gateway has for the services that others run.
type foreign struct {
	router    *mesh.Router
	others    *registered
	registry  *gateway.Services
	cors      *gateway.Cors
	operators *gateway.Operators
}

// startRouter starts what passes calls on to registered services.
func (s *Sidecar) startRouter(path *readpath.Path, metrics *prometheus.Registry) (*mesh.Router, error) {
	router, err := mesh.New(mesh.Options{
		Region: s.config.Region, Source: services{s.store}, Secured: !s.config.NoAuth, MaxInFlight: s.config.MaxServiceCalls,
		Responses: path.Responses(), Logger: s.logger, Registerer: metrics,
	})
	if err == nil {
		s.done.Go(func() { router.Run(s.running) })
	}
	return router, err
}
