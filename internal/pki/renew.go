package pki

import (
	"context"
	"crypto/ecdsa"
	"crypto/x509"
	"fmt"
	"log/slog"
	"time"
)

const (
	// lookInterval is how often the clock on the wall is asked whether it is time: a timer alone would not notice that it jumped.
	lookInterval = time.Minute
	// renewRetry is how long after a failure another attempt is made.
	renewRetry = 30 * time.Second
	// renewTimeout bounds one attempt.
	renewTimeout = 20 * time.Second
)

// RenewFunc asks the primary for a certificate of a request's key, in DER, and returns it with whom to trust.
type RenewFunc func(ctx context.Context, request []byte) (chain, roots []*x509.Certificate, err error)

// Renewer keeps a node's credentials fresh.
type Renewer struct {
	Node  *Node
	Renew RenewFunc
	// Save is given new credentials before they are used; nil is nothing.
	Save   func(*Credentials) error
	Logger *slog.Logger
	// Observe is told of each attempt; nil is nothing.
	Observe func(err error)
	// Early is drawn for each certificate: what it is replaced before two thirds of its life; nil is nothing. It keeps nodes that
	// joined together from coming together ever after.
	Early func() time.Duration
}

// Run replaces the credentials each time two thirds of their life are over, until ctx ends.
func (r *Renewer) Run(ctx context.Context) {
	due := r.due()
	for {
		wait := min(max(due.Sub(r.Node.clock()), 0), lookInterval)
		if !pause(ctx, wait) {
			return
		}
		if r.Node.clock().Before(due) {
			continue
		}
		if err := r.Once(ctx); err != nil {
			if ctx.Err() != nil {
				return
			}
			r.Logger.WarnContext(ctx, "node certificate not renewed", slog.Any("error", err),
				slog.Time("expires", r.Node.Self().Expires))
			if !pause(ctx, renewRetry) {
				return
			}
			continue
		}
		due = r.due()
		r.Logger.InfoContext(ctx, "node certificate renewed", slog.Time("expires", r.Node.Self().Expires))
	}
}

func (r *Renewer) due() time.Time {
	due := r.Node.Credentials().RenewAt()
	if r.Early != nil {
		due = due.Add(-r.Early())
	}
	return due
}

// Once replaces the credentials now, with a key of their own.
func (r *Renewer) Once(ctx context.Context) (err error) {
	if r.Observe != nil {
		defer func() { r.Observe(err) }()
	}
	ctx, cancel := context.WithTimeout(ctx, renewTimeout)
	defer cancel()
	key, err := NewKey()
	if err != nil {
		return err
	}
	c, err := r.request(ctx, key)
	if err != nil {
		return err
	}
	if r.Save != nil {
		if err := r.Save(c); err != nil {
			return err
		}
	}
	r.Node.Replace(c)
	return nil
}

func (r *Renewer) request(ctx context.Context, key *ecdsa.PrivateKey) (*Credentials, error) {
	request, err := NewRequest(key)
	if err != nil {
		return nil, err
	}
	chain, roots, err := r.Renew(ctx, request)
	if err != nil {
		return nil, err
	}
	c, err := NewCredentials(key, chain, roots, r.Node.clock())
	if err != nil {
		return nil, err
	}
	if self := r.Node.Self(); c.self.ID != self.ID || c.self.Node != self.Node {
		return nil, fmt.Errorf("%w: it is of node %s, %s", ErrCertificate, c.self.Node, c.self.ID)
	}
	return c, nil
}

// pause waits and reports whether ctx goes on.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
