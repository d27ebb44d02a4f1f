package server

import (
	"net/http"
	"net/http/pprof"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// AdminHandler serves a role's admin listener: /metrics, /healthz, /readyz and /debug/pprof/.
func AdminHandler(h *Health, registry *prometheus.Registry) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("/healthz", ReadOnly(h.ServeLive))
	mux.Handle("/readyz", ReadOnly(h.ServeReady))
	mux.Handle("/metrics", ReadOnly(promhttp.HandlerFor(registry, promhttp.HandlerOpts{Registry: registry}).ServeHTTP))
	mux.HandleFunc("/debug/pprof/", pprof.Index)
	mux.HandleFunc("/debug/pprof/cmdline", pprof.Cmdline)
	mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
	return mux
}
