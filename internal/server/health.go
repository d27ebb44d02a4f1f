package server

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"

	"connectrpc.com/connect"
	"connectrpc.com/grpchealth"
	"connectrpc.com/grpcreflect"
)

// Health is whether a role is ready, and why not. It may be used concurrently.
type Health struct {
	mu       sync.Mutex
	reason   string // "" is ready
	watchers map[*func()]struct{}
}

// NewHealth returns a Health that is not ready yet for the given reason.
func NewHealth(reason string) *Health {
	return &Health{reason: reason, watchers: make(map[*func()]struct{})}
}

// SetReady says that the role is ready.
func (h *Health) SetReady() { h.set("") }

// SetNotReady says why the role is not ready.
func (h *Health) SetNotReady(reason string) { h.set(reason) }

func (h *Health) set(reason string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.reason == reason {
		return
	}
	h.reason = reason
	for notify := range h.watchers {
		(*notify)() // does not block
	}
}

// Ready reports whether the role is ready and, if it is not, why.
func (h *Health) Ready() (ready bool, reason string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.reason == "", h.reason
}

// ServeLive answers /healthz: the process serves.
func (h *Health) ServeLive(w http.ResponseWriter, r *http.Request) {
	writeHealth(w, r, http.StatusOK, "ok")
}

// ServeReady answers /readyz: 200, or 503 with the reason, as text or, if the caller accepts JSON, as
// {"ready":false,"reason":"..."}.
func (h *Health) ServeReady(w http.ResponseWriter, r *http.Request) {
	if ready, reason := h.Ready(); !ready {
		writeHealth(w, r, http.StatusServiceUnavailable, reason)
		return
	}
	writeHealth(w, r, http.StatusOK, "ok")
}

func writeHealth(w http.ResponseWriter, r *http.Request, status int, text string) {
	header := w.Header()
	header.Set("Cache-Control", "no-store")
	header.Set("X-Content-Type-Options", "nosniff")
	if !strings.Contains(r.Header.Get("Accept"), "application/json") {
		header.Set("Content-Type", "text/plain; charset=utf-8")
		w.WriteHeader(status)
		_, _ = io.WriteString(w, text+"\n") // the caller has gone if this fails
		return
	}
	answer := struct {
		Ready  bool   `json:"ready"`
		Reason string `json:"reason,omitempty"`
	}{Ready: status == http.StatusOK}
	if !answer.Ready {
		answer.Reason = text
	}
	header.Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(answer) //nolint:errchkjson // whoever asked has gone
}

// MountHealth serves /healthz, /readyz, the gRPC health service and reflection on mux. services are the full names of the
// Connect services of the listener, all as ready as h is; others, which may be nil, are those of others.
func MountHealth(mux *http.ServeMux, h *Health, services []string, others Others, options ...connect.HandlerOption) {
	mux.Handle("/healthz", ReadOnly(h.ServeLive))
	mux.Handle("/readyz", ReadOnly(h.ServeReady))
	known := map[string]bool{"": true, grpchealth.HealthV1ServiceName: true}
	for _, name := range services {
		known[name] = true
	}
	mount := func(path string, handler http.Handler) { mux.Handle(path, EndOnDrain(handler)) }
	path, checks := grpchealth.NewHandler(&healthChecker{health: h, known: known, others: others}, options...)
	mount(path, withHeaders(checks))
	names := append(slices.Clip(services), grpchealth.HealthV1ServiceName)
	mount(reflection(names, others, grpcreflect.NewHandlerV1, options...))
	mount(reflection(names, others, grpcreflect.NewHandlerV1Alpha, options...))
}

type healthChecker struct {
	health *Health
	known  map[string]bool
	others Others
}

var _ grpchealth.Watcher = (*healthChecker)(nil)

// Check implements grpchealth.Checker.
func (c *healthChecker) Check(ctx context.Context, req *grpchealth.CheckRequest) (*grpchealth.CheckResponse, error) {
	var ready bool
	if c.known[req.Service] {
		ready, _ = c.health.Ready()
	} else if o, ok := c.other(ctx, req.Service); ok {
		ready = o.Ready()
	} else {
		return nil, unknownService(req.Service)
	}
	if !ready {
		return &grpchealth.CheckResponse{Status: grpchealth.StatusNotServing}, nil
	}
	return &grpchealth.CheckResponse{Status: grpchealth.StatusServing}, nil
}

// Watch implements grpchealth.Watcher.
func (c *healthChecker) Watch(ctx context.Context, req *grpchealth.CheckRequest, onChange func()) (stop func(), err error) {
	if !c.known[req.Service] {
		o, ok := c.other(ctx, req.Service)
		if !ok {
			return nil, unknownService(req.Service)
		}
		return watch(o, onChange), nil
	}
	h := c.health
	h.mu.Lock()
	defer h.mu.Unlock()
	h.watchers[&onChange] = struct{}{}
	return func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		delete(h.watchers, &onChange)
	}, nil
}

func unknownService(name string) error {
	return connect.NewError(connect.CodeNotFound, fmt.Errorf("unknown service %s", name))
}
