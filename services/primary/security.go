package primary

import (
	"net"
	"net/http"
	"net/url"
	"slices"
	"time"

	"connectrpc.com/connect"

	"github.com/nearside-dev/nearside/gen/nearside/control/v1/controlv1connect"
	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/internal/httpclient"
	"github.com/nearside-dev/nearside/internal/meshdb"
	"github.com/nearside-dev/nearside/internal/pki"
	"github.com/nearside-dev/nearside/internal/rpcerr"
	"github.com/nearside-dev/nearside/internal/server"
	"github.com/nearside-dev/nearside/services/data/registry"
	"github.com/nearside-dev/nearside/services/nodes"
)

// security returns how the listener tells who calls. What came without TLS was to come from this machine alone before there was
// any TLS; with it, that holds for what comes in, and not for where the listener is.
func (p *Primary) security(c Config) (server.Security, error) {
	node := p.membership.Node()
	s := server.Security{
		Plaintext: plaintext(c.InsecureListen), Principal: p.membership.Principal,
		Nodes: node.Server(true), NodeName: pki.ServerName(node.Self().ID.Mesh),
	}
	if c.TLSCert == "" {
		return s, nil
	}
	certificate, err := server.LoadCertificate(c.TLSCert, c.TLSKey, c.Logger)
	if err != nil {
		return s, err
	}
	s.Callers = certificate.Config()
	if !c.PlaintextToo && !c.InsecureListen {
		s.Plaintext = server.PlaintextNone
	}
	return s, nil
}

func plaintext(insecure bool) server.Plaintext {
	if insecure {
		return server.PlaintextAny
	}
	return server.PlaintextLoopback
}

// reachable is where this machine finds a listener.
func reachable(addr net.Addr) string {
	host, port, err := net.SplitHostPort(addr.String())
	if err != nil {
		return addr.String() // not of TCP, which Listen never returns
	}
	if ip := net.ParseIP(host); ip != nil && ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	return net.JoinHostPort(host, port)
}

// peers returns the client that asks regions: over TLS those that have joined.
func (p *Primary) peers(databases *registry.Registry) *http.Client {
	secured := httpclient.NewUnaryTLS(p.membership.Node().Client("http/1.1", pki.RoleSidecar))
	return httpclient.SecureSome(secured, httpclient.NewUnary(), func(host string) bool {
		regions, err := databases.Regions(p.running)
		return err != nil || slices.ContainsFunc(regions, func(r meshdb.Region) bool {
			u, err := url.Parse(r.URL)
			return err == nil && u.Host == host && p.membership.Has(r.Name)
		})
	})
}

// mountNodes mounts what nodes and their operators call.
func (p *Primary) mountNodes(mux *http.ServeMux, options ...connect.HandlerOption) {
	service := nodes.Service{Membership: p.membership}
	path, handler := controlv1connect.NewNodeServiceHandler(service, options...)
	mux.Handle(path, secured(handler))
	mux.Handle(controlv1connect.NewNodeAdminServiceHandler(service, options...))
}

// secured refuses what comes without TLS, before it is read: it has secrets.
func secured(next http.Handler) http.Handler {
	errs := connect.NewErrorWriter()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if server.Secured(r.Context()) || r.URL.Path == controlv1connect.NodeServiceLocateTokenProcedure {
			next.ServeHTTP(w, r)
			return
		}
		wire, _ := rpcerr.ToConnect(rpcerr.New(datav1.ErrorReason_ERROR_REASON_NODE_ONLY, "nodes join over TLS alone").
			With("procedure", r.URL.Path))
		if !errs.IsSupported(r) {
			http.Error(w, wire.Error(), http.StatusForbidden)
			return
		}
		_ = errs.Write(w, r, wire) // whoever asked has gone
	})
}

// JoinToken makes a token with which a node of a region can join.
func (p *Primary) JoinToken(region string, ttl time.Duration) (pki.JoinToken, error) {
	return p.membership.Token(region, ttl)
}
