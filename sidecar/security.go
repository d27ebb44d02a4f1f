package sidecar

import (
	"context"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/nearside-dev/nearside/internal/identity"
	"github.com/nearside-dev/nearside/internal/pki"
	"github.com/nearside-dev/nearside/internal/server"
)

// cutInterval is how often connections of revoked nodes are looked for.
const cutInterval = time.Second

// security returns how the gateway tells who calls.
func (s *Sidecar) security(m *membership) (server.Security, error) {
	c := server.Security{Plaintext: plaintext(s.config.InsecureListen)}
	if m.node != nil {
		c.Nodes, c.NodeName = m.node.Server(false), pki.ServerName(m.node.Self().ID.Mesh)
		c.Principal = s.principal(m)
	}
	if s.config.TLSCert == "" {
		return c, nil
	}
	certificate, err := server.LoadCertificate(s.config.TLSCert, s.config.TLSKey, s.logger)
	if err != nil {
		return c, err
	}
	c.Callers = certificate.Config()
	if !s.config.InsecureListen {
		c.Plaintext = server.PlaintextNone
	}
	return c, nil
}

func plaintext(insecure bool) server.Plaintext {
	if insecure {
		return server.PlaintextAny
	}
	return server.PlaintextLoopback
}

// listenInside opens a listener for services in this process, where the gateway takes TLS alone: they need none, and have no
// certificate to know it by. It is nil where they use the gateway's own.
func (s *Sidecar) listenInside(ctx context.Context, security server.Security) (net.Listener, error) {
	s.innerURL = s.url
	if s.config.Mount == nil || security.Plaintext != server.PlaintextNone {
		return nil, nil
	}
	ln, err := server.Listen(ctx, "127.0.0.1:0", false)
	if err == nil {
		s.innerURL = baseURL("http", ln.Addr())
	}
	return ln, err
}

func (s *Sidecar) serveInside(ln net.Listener, handler http.Handler, metrics *prometheus.Registry) error {
	limits := s.config.Limits
	limits.Name, limits.Logger, limits.Registerer = "inside", s.logger, metrics
	inside, err := server.Start(ln, handler, limits)
	if err == nil {
		s.closers = append(s.closers, inside.Close)
	}
	return err
}

// cutRevoked ends the connections of nodes that are revoked while they are connected to the gateway.
func (s *Sidecar) cutRevoked(front *server.Server) {
	tick := time.NewTicker(cutInterval)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			front.Disconnect(func(p *identity.Principal) bool { return s.directory.Revoked(p.ID) })
		case <-s.running.Done():
			return
		}
	}
}
