package auth

import (
	"context"
	"strings"

	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/internal/access"
	"github.com/nearside-dev/nearside/internal/meshdb"
	"github.com/nearside-dev/nearside/internal/value"
	"github.com/nearside-dev/nearside/services/data/changelog"
	"github.com/nearside-dev/nearside/services/data/engine"
)

// Source is the primary's own _mesh as package access reads it.
type Source struct {
	log  *changelog.Log
	mesh *engine.DB
}

var _ access.Source = (*Source)(nil)

// NewSource returns the rows of a primary's _mesh.
func NewSource(log *changelog.Log, mesh *engine.DB) *Source { return &Source{log: log, mesh: mesh} }

// Version implements access.Source.
func (s *Source) Version() (access.Version, bool) {
	h, ok := s.log.Published(meshdb.DatabaseID)
	return access.Version{Epoch: h.Epoch, Version: h.Version}, ok
}

// Wait implements access.Source: there is nothing newer anywhere.
func (s *Source) Wait(context.Context, access.Version) {}

// Connected implements access.Source: there is nothing newer anywhere.
func (s *Source) Connected() bool { return true }

// Read implements access.Source.
func (s *Source) Read(f func(table string, values []value.Value) error) (version access.Version, err error) {
	err = s.mesh.View(context.Background(), func(v *engine.View) error {
		h := v.Head()
		version = access.Version{Epoch: h.Epoch, Version: h.Version}
		for _, t := range meshdb.AccessTables {
			var failed error
			each := sink(func(values []value.Value) {
				if failed == nil {
					failed = f(t.Name, values)
				}
			})
			sql := "SELECT " + strings.Join(t.Columns, ", ") + " FROM " + t.Name
			if _, err := v.Query(&datav1.Statement{Sql: sql}, each); err != nil {
				return err
			}
			if failed != nil {
				return failed
			}
		}
		return nil
	})
	return version, err
}
