package primary

import (
	"context"
	"log/slog"
	"net/http"

	"connectrpc.com/connect"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/nearside-dev/nearside/gen/nearside/auth/v1/authv1connect"
	"github.com/nearside-dev/nearside/gen/nearside/replication/v1/replicationv1connect"
	"github.com/nearside-dev/nearside/internal/audit"
	"github.com/nearside-dev/nearside/services/auditlog"
	"github.com/nearside-dev/nearside/services/data/changelog"
	"github.com/nearside-dev/nearside/services/data/registry"
)

// recording is the audit as the listener needs it.
type recording struct {
	store   *auditlog.Store
	auditor audit.Auditor
	options []connect.HandlerOption

	denied  func(*http.Request, error)
	refused func(string, error)
}

// openAudit opens the chain and what adds to it.
func (p *Primary) openAudit(
	ctx context.Context, c Config, log *changelog.Log, databases *registry.Registry, metrics *prometheus.Registry,
) (*recording, error) {
	store, err := auditlog.Open(ctx, auditlog.Config{
		DB: databases.Audit(), Log: log, Region: c.Region, Logger: c.Logger, KeepAge: c.AuditKeepAge,
		KeepEntries: c.AuditKeepEntries, Clock: c.Clock,
	})
	if err != nil {
		return nil, err
	}
	recorder, err := audit.NewRecorder(audit.RecorderOptions{
		Region: c.Region, Node: auditlog.Node, Logger: c.Logger, Clock: c.Clock, Registerer: metrics, Write: store.AppendAll,
	})
	if err != nil {
		return nil, err
	}
	// After the listener, whose last requests are recorded too.
	running, cancel := context.WithCancel(context.Background())
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		recorder.Run(running)
	}()
	p.onClose(func() error {
		cancel()
		<-stopped
		return nil
	})
	p.every(janitorInterval, func() {
		if err := store.Trim(p.running); err != nil {
			c.Logger.Warn("trim the audit", slog.Any("error", err))
		}
	})
	auditor := audit.Auditor{Recorder: recorder}
	return &recording{
		store: store, auditor: auditor, denied: auditor.NodeDenied, refused: auditor.NodeRefused,
		options: []connect.HandlerOption{connect.WithInterceptors(auditlog.NewChanges(store, recorder))},
	}, nil
}

// mount mounts what admins and regions call. Where every caller may do everything, regions decide nothing and so have nothing to tell,
// and nobody else may.
func (r *recording) mount(
	mux *http.ServeMux, log *changelog.Log, databases *registry.Registry, open bool, options ...connect.HandlerOption,
) {
	mux.Handle(authv1connect.NewAuditServiceHandler(auditlog.NewService(r.store, log, databases), options...))
	if !open {
		mux.Handle(replicationv1connect.NewAuditSpoolServiceHandler(auditlog.NewSpools(r.store), options...))
	}
}
