package sidecar

import (
	"net/http"
	"net/url"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/nearside-dev/nearside/gen/nearside/data/v1/datav1connect"
	"github.com/nearside-dev/nearside/internal/access"
	"github.com/nearside-dev/nearside/internal/hotrpc"
	"github.com/nearside-dev/nearside/internal/server"
)

// mountHot puts the hot methods of mounted services before their general handlers, and adds them to short, which is the chain's. They
// read what they answer as any caller of the gateway does.
func (s *Sidecar) mountHot(mux *http.ServeMux, short map[string]access.ShortHandler, chain *access.Chain, metrics *prometheus.Registry) error {
	data, ok := short[datav1connect.DataServiceGetProcedure].(*hotrpc.Handler)
	if s.config.Hot == nil || !ok {
		return nil
	}
	get := data.Answer
	if chain != nil {
		get = chain.Inside(datav1connect.DataServiceGetProcedure, get)
	}
	for procedure, method := range s.config.Hot(get) {
		observer, err := server.NewObserver(metrics, procedure)
		if err != nil {
			return err
		}
		general, _ := mux.Handler(&http.Request{Method: http.MethodPost, URL: &url.URL{Path: procedure}})
		h := hotrpc.NewHandler(hotrpc.Options{Method: method, General: general, Logger: s.logger, Metrics: observer})
		mux.Handle(procedure, h)
		short[procedure] = h
	}
	return nil
}
