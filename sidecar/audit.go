package sidecar

import (
	"context"
	"errors"
	"path/filepath"

	"connectrpc.com/connect"
	"github.com/prometheus/client_golang/prometheus"

	authv1 "github.com/nearside-dev/nearside/gen/nearside/auth/v1"
	"github.com/nearside-dev/nearside/gen/nearside/replication/v1/replicationv1connect"
	"github.com/nearside-dev/nearside/internal/audit"
	"github.com/nearside-dev/nearside/sidecar/spool"
)

// auditFolder is where, in its folder, a sidecar keeps what the primary has not been told.
const auditFolder = "audit"

// recording is the region's part of the audit: what its gateway decides by itself. Nil where every caller may do everything.
type recording struct {
	recorder *audit.Recorder
	spool    *spool.Spool
}

// openAudit opens the spool, and what puts entries into it.
func (s *Sidecar) openAudit(node *membership, metrics prometheus.Registerer) (*recording, error) {
	if s.config.NoAuth {
		return nil, nil //nolint:nilnil // nothing is decided about anybody
	}
	r := &recording{}
	var err error
	r.spool, err = spool.Open(spool.Options{
		Dir: filepath.Join(s.config.Dir, auditFolder), Region: s.config.Region, Logger: s.logger, Registerer: metrics,
		Client: replicationv1connect.NewAuditSpoolServiceClient(node.calls, node.primary, connect.WithAcceptCompression("gzip", nil, nil)),
	})
	if err != nil {
		return nil, err
	}
	s.onClose(r.spool.Close)
	r.recorder, err = audit.NewRecorder(audit.RecorderOptions{
		Region: s.config.Region, Logger: s.logger, Registerer: metrics, Write: r.write,
	})
	if err != nil {
		return nil, err
	}
	// After the listener, whose last requests are recorded too.
	running, cancel := context.WithCancel(context.Background())
	recorded, delivered := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(recorded)
		r.recorder.Run(running)
	}()
	go func() {
		defer close(delivered)
		r.spool.Run(running)
	}()
	s.onClose(func() error {
		cancel()
		<-recorded
		<-delivered
		return nil
	})
	return r, nil
}

// write puts entries on the disk. What there is no room for is counted, and said once there is.
func (r *recording) write(_ context.Context, entries []*authv1.AuditEntry) error {
	err := r.spool.Append(entries)
	if !errors.Is(err, spool.ErrFull) {
		return err
	}
	lost := uint64(0)
	for _, e := range entries {
		lost += e.GetCount()
	}
	r.recorder.Drop(lost)
	return nil
}

// auditor returns what the chain tells of its decisions.
func (r *recording) auditor() audit.Auditor {
	if r == nil {
		return audit.Auditor{}
	}
	return audit.Auditor{Recorder: r.recorder}
}

// connected has what is there be delivered: the primary can be reached again.
func (r *recording) connected() {
	if r != nil {
		r.spool.Wake()
	}
}
