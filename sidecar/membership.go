package sidecar

import (
	"cmp"
	"context"
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"connectrpc.com/connect"
	"github.com/prometheus/client_golang/prometheus"

	controlv1 "github.com/nearside-dev/nearside/gen/nearside/control/v1"
	"github.com/nearside-dev/nearside/gen/nearside/control/v1/controlv1connect"
	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/internal/httpclient"
	"github.com/nearside-dev/nearside/internal/identity"
	"github.com/nearside-dev/nearside/internal/nodeaccess"
	"github.com/nearside-dev/nearside/internal/pki"
	"github.com/nearside-dev/nearside/internal/rpcerr"
)

const (
	nodeFolder  = "node"
	joinKeyFile = "join.key"    // of a join that has not succeeded yet
	primaryFile = "primary.url" // where the primary was when the node joined

	joinTimeout  = 30 * time.Second // to reach the primary for the first time
	joinInterval = 200 * time.Millisecond
	probeTimeout = 3 * time.Second
	// renewSpread is over what time nodes that joined together renew their certificates.
	renewSpread = time.Hour
)

// ErrNotJoined means that a sidecar has no certificate of the mesh, or none that serves any more, and no token for one.
var ErrNotJoined = errors.New("not a node of the mesh")

// membership is a sidecar's side of being a node: who it is, and the clients with which it calls others.
type membership struct {
	dir     string
	primary string    // base URL
	node    *pki.Node // nil without a certificate
	renewer *pki.Renewer
	renewed *prometheus.CounterVec

	calls, streams   *http.Client // to the primary
	peers, elsewhere *http.Client // to other regions, calls and streams
}

// openMembership makes the sidecar a node of its mesh, if it is none yet, and returns when it has a certificate.
func (s *Sidecar) openMembership(ctx context.Context, metrics prometheus.Registerer) (*membership, error) {
	c := &s.config
	m := &membership{dir: filepath.Join(c.Dir, nodeFolder), primary: c.PrimaryURL}
	_, statErr := os.Stat(filepath.Join(m.dir, pki.CredentialsFile))
	unknown := c.Join == nil && errors.Is(statErr, fs.ErrNotExist)
	if unknown {
		m.primary = cmp.Or(m.primary, DefaultPrimaryURL)
	}
	if unknown && !c.NoAuth {
		if err := s.findToken(ctx, m.primary); err != nil {
			return nil, err
		}
	}
	if unknown && c.Join == nil {
		m.calls, m.streams = httpclient.NewUnary(), httpclient.NewStreaming()
		m.peers, m.elsewhere = m.calls, m.streams
		return m, nil
	}
	if err := os.MkdirAll(m.dir, 0o700); err != nil {
		return nil, err
	}
	credentials, err := pki.LoadCredentials(m.dir, time.Now())
	switch {
	case errors.Is(err, fs.ErrNotExist):
		credentials, err = s.join(ctx, m, "has no certificate of the mesh")
	case err == nil && credentials.Self().ID.Region != c.Region:
		return nil, fmt.Errorf("%s is of region %s", m.dir, credentials.Self().ID.Region)
	case err == nil && time.Now().After(credentials.Self().Expires.Add(pki.Grace)):
		if c.Join == nil && strings.HasPrefix(c.PrimaryURL, "http:") {
			if err := s.findToken(ctx, c.PrimaryURL); err != nil {
				return nil, err
			}
		}
		credentials, err = s.join(ctx, m, "has a certificate that ran out too long ago to be renewed")
	}
	if err != nil {
		return nil, err
	}
	if m.primary == "" {
		text, err := os.ReadFile(filepath.Join(m.dir, primaryFile))
		if err != nil {
			return nil, fmt.Errorf("where is the primary: %w", err)
		}
		m.primary = strings.TrimSpace(string(text))
	}
	if m.primary, err = secureURL(m.primary); err != nil {
		return nil, err
	}
	m.node = pki.NewNode(credentials, nil)
	m.calls = httpclient.NewUnaryTLS(m.node.Client("http/1.1", pki.RolePrimary))
	m.streams = httpclient.NewStreamingTLS(m.node.Client("h2", pki.RolePrimary))
	m.peers = httpclient.SecureSome(httpclient.NewUnaryTLS(m.node.Client("http/1.1", pki.RoleSidecar, pki.RolePrimary)),
		httpclient.NewUnary(), s.directory.Joined)
	m.elsewhere = httpclient.SecureSome(httpclient.NewStreamingTLS(m.node.Client("h2", pki.RoleSidecar, pki.RolePrimary)),
		httpclient.NewStreaming(), s.directory.Joined)
	early := rand.N(renewSpread)
	m.renewed = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "nearside_node_certificate_renewals_total", Help: "Attempts to renew this node's certificate, by outcome.",
	}, []string{"outcome"})
	m.renewer = &pki.Renewer{
		Node: m.node, Renew: m.renew, Logger: s.logger, Early: func() time.Duration { return early },
		Save: func(c *pki.Credentials) error { return c.Save(m.dir) },
		Observe: func(err error) {
			outcome := "ok"
			if err != nil {
				outcome = "failed"
			}
			m.renewed.WithLabelValues(outcome).Inc()
		},
	}
	expires := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "nearside_node_certificate_expiry_seconds", Help: "When this node's certificate runs out, in seconds since 1970.",
	}, func() float64 { return float64(m.node.Self().Expires.Unix()) })
	if err := errors.Join(metrics.Register(m.renewed), metrics.Register(expires)); err != nil {
		return nil, err
	}
	return m, s.probe(ctx, m)
}

// probe joins anew, where there is a token for that, if the primary no longer takes the certificate that there is.
func (s *Sidecar) probe(ctx context.Context, m *membership) error {
	if s.config.Join == nil || s.config.KeepNode || time.Since(m.node.Credentials().Chain[0].NotBefore) < time.Hour {
		return nil // it has just joined, or has nothing to join with
	}
	probing, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	if err := m.renewer.Once(probing); err == nil || !refused(err) {
		return nil
	}
	credentials, err := s.join(ctx, m, "has a certificate that the primary refuses")
	if err == nil {
		m.node.Replace(credentials)
	}
	return err
}

// refused reports whether a call failed because the other side did not take our certificate.
func refused(err error) bool {
	if op, ok := errors.AsType[*net.OpError](err); ok && op.Op == "remote error" {
		return true
	}
	e, ok := rpcerr.FromError(err)
	return ok && e.Reason() == datav1.ErrorReason_ERROR_REASON_NODE_ONLY
}

// RenewCertificate replaces the sidecar's certificate now, and not when two thirds of its life are over. What is connected stays so.
func (s *Sidecar) RenewCertificate(ctx context.Context) error {
	if s.node.renewer == nil {
		return errors.New("the sidecar has no certificate of the mesh")
	}
	return s.node.renewer.Once(ctx)
}

// run keeps the certificate fresh until ctx ends.
func (m *membership) run(ctx context.Context) {
	if m.renewer != nil {
		m.renewer.Run(ctx)
	}
}

func (m *membership) close() {
	for _, c := range []*http.Client{m.calls, m.streams, m.peers, m.elsewhere} {
		c.CloseIdleConnections()
	}
}

// renew is the node's pki.RenewFunc. Its connections are those of calls, made with the present certificate.
func (m *membership) renew(ctx context.Context, request []byte) (chain, roots []*x509.Certificate, err error) {
	// With a connection of its own: one that is there was made with the certificate that there was then.
	client := httpclient.NewUnaryTLS(m.node.Client("http/1.1", pki.RolePrimary))
	defer client.CloseIdleConnections()
	res, err := controlv1connect.NewNodeServiceClient(client, m.primary).
		Renew(ctx, connect.NewRequest(&controlv1.RenewRequest{CertificateRequest: request}))
	if err != nil {
		return nil, nil, err
	}
	return decode(res.Msg.GetCertificates(), res.Msg.GetAuthorities())
}

// join gets a certificate for a token.
func (s *Sidecar) join(ctx context.Context, m *membership, why string) (*pki.Credentials, error) {
	if s.config.Join == nil {
		return nil, fmt.Errorf("%w: region %s %s: give --join FILE with a join token (the primary keeps one in its folder, in "+
			"join.token; `nearside node token` makes more)",
			ErrNotJoined, s.config.Region, why)
	}
	key, err := joinKey(filepath.Join(m.dir, joinKeyFile))
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, joinTimeout)
	defer cancel()
	var last string
	for {
		token, err := s.config.Join(ctx)
		if err == nil {
			var credentials *pki.Credentials
			if credentials, err = s.joinOnce(ctx, m, token, key); err == nil {
				s.logger.InfoContext(ctx, "joined the mesh", slog.String("node", credentials.Self().Node))
				// The token is spent, and with it what the key was kept for.
				return credentials, os.Remove(filepath.Join(m.dir, joinKeyFile))
			}
		}
		e, answered := rpcerr.FromError(err)
		switch {
		case answered && e.Reason() == datav1.ErrorReason_ERROR_REASON_JOIN_TOKEN_INVALID && token.Secret != last:
			last = token.Secret // somebody else was faster; where it comes from there may be another one by now
		case answered && e.Reason() == datav1.ErrorReason_ERROR_REASON_JOIN_TOKEN_INVALID:
			return nil, fmt.Errorf("%w: region %s: %w", ErrNotJoined, s.config.Region, err)
		case errors.Is(err, fs.ErrNotExist): // a primary that starts for the first time has not written it yet
		case answered, token.Secret == "", errors.Is(err, pki.ErrCertificate):
			return nil, fmt.Errorf("join the mesh: %w", err)
		default:
			s.logger.DebugContext(ctx, "primary not reached", slog.Any("error", err))
		}
		timer := time.NewTimer(joinInterval/2 + rand.N(joinInterval/2))
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return nil, fmt.Errorf("join the mesh: %w", err)
		}
	}
}

func (s *Sidecar) joinOnce(
	ctx context.Context, m *membership, token pki.JoinToken, key *ecdsa.PrivateKey,
) (*pki.Credentials, error) {
	primary, err := secureURL(cmp.Or(m.primary, token.URL))
	if err != nil {
		return nil, err
	}
	request, err := pki.NewRequest(key)
	if err != nil {
		return nil, err
	}
	client := httpclient.NewUnaryTLS(pki.JoiningClient(token, nil))
	defer client.CloseIdleConnections()
	res, err := controlv1connect.NewNodeServiceClient(client, primary).Join(ctx, connect.NewRequest(&controlv1.JoinRequest{
		Secret: token.Secret, Region: s.config.Region, CertificateRequest: request,
	}))
	if err != nil {
		return nil, err
	}
	chain, roots, err := decode(res.Msg.GetCertificates(), res.Msg.GetAuthorities())
	if err != nil {
		return nil, err
	}
	credentials, err := pki.NewCredentials(key, chain, roots, time.Now())
	if err != nil {
		return nil, err
	}
	if id := credentials.Self().ID; id != (pki.ID{Mesh: token.Mesh, Region: s.config.Region, Role: pki.RoleSidecar}) {
		return nil, fmt.Errorf("%w: it is of %s", pki.ErrCertificate, id)
	}
	if err := pki.WriteFile(filepath.Join(m.dir, primaryFile), []byte(primary+"\n")); err != nil {
		return nil, err
	}
	return credentials, credentials.Save(m.dir)
}

// joinKey returns the key of a join, which is the same until that has succeeded: a token that is spent for it serves it again.
func joinKey(path string) (*ecdsa.PrivateKey, error) {
	if key, err := pki.ReadKey(path); err == nil {
		return key, nil
	}
	key, err := pki.NewKey()
	if err != nil {
		return nil, err
	}
	text, err := pki.EncodeKey(key)
	if err != nil {
		return nil, err
	}
	return key, pki.WriteFile(path, text)
}

func decode(certificates, authorities [][]byte) (chain, roots []*x509.Certificate, err error) {
	for i, list := range [][][]byte{certificates, authorities} {
		for _, der := range list {
			c, err := x509.ParseCertificate(der)
			if err != nil {
				return nil, nil, fmt.Errorf("%w: %w", pki.ErrFile, err)
			}
			if i == 0 {
				chain = append(chain, c)
			} else {
				roots = append(roots, c)
			}
		}
	}
	return chain, roots, nil
}

// secureURL returns a base URL as nodes use it: over TLS, whatever it says.
func secureURL(text string) (string, error) {
	u, err := url.Parse(text)
	if err != nil {
		return "", err
	}
	u.Scheme = "https"
	return u.String(), nil
}

// principal says which node is at the other end of a connection to the gateway.
func (s *Sidecar) principal(m *membership) func(tls.ConnectionState) (*identity.Principal, error) {
	return func(state tls.ConnectionState) (*identity.Principal, error) {
		peer, err := m.node.Caller(state)
		if err != nil {
			return nil, err
		}
		if peer.Node == "" || peer.Expired {
			return nil, fmt.Errorf("%w: it has none, or one that has run out", pki.ErrCertificate)
		}
		if s.directory.Revoked(peer.Node) {
			return nil, fmt.Errorf("%w: node %s of region %s is revoked", pki.ErrCertificate, peer.Node, peer.ID.Region)
		}
		return nodeaccess.Principal(peer), nil
	}
}
