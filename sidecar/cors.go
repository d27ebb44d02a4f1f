package sidecar

import (
	"net/http"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/nearside-dev/nearside/internal/meshdb"
	"github.com/nearside-dev/nearside/internal/value"
	"github.com/nearside-dev/nearside/sidecar/browser"
	"github.com/nearside-dev/nearside/sidecar/replica"
)

// withBrowsers has the gateway answer pages of other origins as the mesh's policy says. It stands before all else: what refuses a
// request is to be readable by its page too.
func (s *Sidecar) withBrowsers(next http.Handler, metrics prometheus.Registerer) (http.Handler, error) {
	return browser.New(browser.Options{Source: origins{s.store}, Next: next, Logger: s.logger, Registerer: metrics})
}

// origins is the region's copy of _mesh as package browser reads it.
type origins struct{ store *replica.Store }

var _ browser.Source = origins{}

// Version implements browser.Source.
func (o origins) Version() (browser.Version, bool) {
	epoch, version, ok := meshVersion(o.store)
	return browser.Version{Epoch: epoch, Version: version}, ok
}

// Read implements browser.Source.
func (o origins) Read(f func(table string, values []value.Value) error) (browser.Version, error) {
	epoch, version, err := readMesh(o.store, meshdb.CORSTables, f)
	return browser.Version{Epoch: epoch, Version: version}, err
}
