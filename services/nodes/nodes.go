// Package nodes is the primary's part in who belongs to the mesh: it makes machines into nodes for a join token, renews their
// certificates, revokes them, and tells the listener who is at the other end.
//
// The mesh's rows say which nodes there are and which are revoked; the authority's key and the tokens are files of the primary's
// own, which no region holds.
package nodes

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/nearside-dev/nearside/internal/identity"
	"github.com/nearside-dev/nearside/internal/meshdb"
	"github.com/nearside-dev/nearside/internal/nodeaccess"
	"github.com/nearside-dev/nearside/internal/pki"
)

const (
	// DefaultTokenTTL is how long a join token may be used.
	DefaultTokenTTL = 24 * time.Hour
	// MaxTokenTTL is how long at most.
	MaxTokenTTL = 30 * 24 * time.Hour

	// TokenFile is the file of the primary's folder that has a token for the next node.
	TokenFile = "join.token"
	folder    = "pki"

	primaryNode = "primary"
)

// Registry is what is needed of the rows of _mesh.
type Registry interface {
	AddNode(ctx context.Context, n meshdb.Node) error
	RevokeNode(ctx context.Context, id string, at int64) error
	Nodes(ctx context.Context) ([]meshdb.Node, error)
}

// Options configures a Membership. Dir, MeshID, Region, Registry and Logger are required.
type Options struct {
	Dir      string // of the primary
	MeshID   string // 32 hexadecimal digits
	Region   string // of the primary
	Registry Registry
	Logger   *slog.Logger
	Required bool // nodes need certificates

	// Clock is what certificates and tokens live by; default time.Now.
	Clock func() time.Time
	// Early is drawn for the primary's own certificate, as pki.Renewer has it.
	Early func() time.Duration
}

// Membership knows who belongs to the mesh. It may be used concurrently.
type Membership struct {
	dir       string
	region    string
	required  bool
	registry  Registry
	logger    *slog.Logger
	clock     func() time.Time
	authority *pki.Authority
	node      *pki.Node // the primary itself
	tokens    *tokens
	renewer   *pki.Renewer

	mu    sync.Mutex // held over what changes the rows and what follows from that
	nodes map[string]meshdb.Node
	url   string // of the listener, once it is known

	// connections are those of the listener, once there is one.
	connections Connections
}

// Connections are a listener's, by who is at the other end.
type Connections interface {
	// Disconnect ends those that match and returns how many there were.
	Disconnect(match func(*identity.Principal) bool) int
	// CountNodes returns how many match.
	CountNodes(match func(*identity.Principal) bool) int
}

// Open reads the authority and who belongs to the mesh, or makes the authority.
func Open(ctx context.Context, o Options) (*Membership, error) {
	m := &Membership{
		dir: o.Dir, region: o.Region, required: o.Required, registry: o.Registry, logger: o.Logger, clock: o.Clock, nodes: make(map[string]meshdb.Node),
	}
	if m.clock == nil {
		m.clock = time.Now
	}
	var err error
	if m.authority, err = pki.OpenAuthority(filepath.Join(o.Dir, folder), o.MeshID, m.clock); err != nil {
		return nil, fmt.Errorf("open the mesh's authority: %w", err)
	}
	if m.tokens, err = openTokens(filepath.Join(o.Dir, folder), m.clock); err != nil {
		return nil, err
	}
	rows, err := o.Registry.Nodes(ctx)
	if err != nil {
		return nil, err
	}
	for _, n := range rows {
		m.nodes[n.ID] = n
	}
	key, err := pki.NewKey()
	if err != nil {
		return nil, err
	}
	chain, err := m.authority.Issue(&key.PublicKey, m.self(), primaryNode)
	if err != nil {
		return nil, err
	}
	c, err := pki.NewCredentials(key, chain, m.authority.Roots(), m.clock())
	if err != nil {
		return nil, err
	}
	m.node = pki.NewNode(c, m.clock)
	m.renewer = &pki.Renewer{Node: m.node, Renew: m.renewSelf, Logger: o.Logger, Early: o.Early}
	return m, nil
}

func (m *Membership) self() pki.ID {
	return pki.ID{Mesh: m.authority.Mesh(), Region: m.region, Role: pki.RolePrimary}
}

// Node is the primary's own side of TLS.
func (m *Membership) Node() *pki.Node { return m.node }

// Run keeps the primary's own certificate and the token file fresh until ctx ends.
func (m *Membership) Run(ctx context.Context) {
	var tokens sync.WaitGroup
	tokens.Go(func() {
		tick := time.NewTicker(time.Minute)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				if err := m.refreshTokenFile(); err != nil {
					m.logger.WarnContext(ctx, "join token not written", slog.Any("error", err))
				}
			case <-ctx.Done():
				return
			}
		}
	})
	m.renewer.Run(ctx)
	tokens.Wait()
}

// Serve says where the primary's listener is and whose connections it has, and writes the token file.
func (m *Membership) Serve(url string, c Connections) error {
	m.mu.Lock()
	m.url, m.connections = url, c
	m.mu.Unlock()
	return m.refreshTokenFile()
}

// Principal says who is at the other end of a connection of nodes: nil who has no certificate yet. It refuses those that are
// revoked, that never joined, or that are no sidecar.
func (m *Membership) Principal(state tls.ConnectionState) (*identity.Principal, error) {
	peer, err := m.node.Caller(state)
	if err != nil || peer.Node == "" {
		return nil, err
	}
	if peer.ID.Role != pki.RoleSidecar {
		return nil, fmt.Errorf("%w: %s calls as a node", pki.ErrCertificate, peer.ID)
	}
	if err := m.check(peer.Node, peer.ID.Region); err != nil {
		return nil, err
	}
	return nodeaccess.Principal(peer), nil
}

// check refuses a node that does not belong to the mesh.
func (m *Membership) check(node, region string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	n, ok := m.nodes[node]
	switch {
	case !ok || n.Region != region:
		return fmt.Errorf("%w: node %s of region %s has not joined", pki.ErrCertificate, node, region)
	case n.RevokedAt != 0:
		return fmt.Errorf("%w: node %s of region %s is revoked", pki.ErrCertificate, node, region)
	default:
		return nil
	}
}

// Token makes a join token, for one region or, with "", any.
func (m *Membership) Token(region string, ttl time.Duration) (pki.JoinToken, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.token(region, ttl)
}

func (m *Membership) token(region string, ttl time.Duration) (pki.JoinToken, error) {
	expires := m.clock().Add(ttl).UTC().Truncate(time.Second)
	secret, err := m.tokens.create(region, expires)
	if err != nil {
		return pki.JoinToken{}, err
	}
	t := pki.JoinToken{
		URL: m.url, Mesh: m.authority.Mesh(), CA: m.authority.Pin(), Secret: secret, Region: region, Expires: expires,
	}
	return t, t.Validate()
}

// refreshTokenFile sees to it that the token file has a token that can be used at this primary. Who can read the file can read
// the authority's key beside it, so that it is there gives nobody anything.
func (m *Membership) refreshTokenFile() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.url == "" {
		return nil
	}
	path := filepath.Join(m.dir, TokenFile)
	t, err := pki.ReadJoinToken(path)
	if err == nil && t.URL == m.url && t.Mesh == m.authority.Mesh() && t.CA == m.authority.Pin() && m.tokens.live(t.Secret) {
		return os.Chmod(path, 0o600)
	}
	if t, err = m.token("", DefaultTokenTTL); err != nil {
		return err
	}
	text, err := t.Encode()
	if err != nil {
		return err
	}
	return pki.WriteFile(path, text)
}

// Has reports whether there is a node of a region that is not revoked.
func (m *Membership) Has(region string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, n := range m.nodes {
		if n.Region == region && n.RevokedAt == 0 {
			return true
		}
	}
	return false
}

// newNodeID returns an id that no other node has.
func newNodeID() string {
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails
	return "n" + hex.EncodeToString(b[:])
}

var errUnknownNode = errors.New("no such node")

// Revoke ends a node. cut is how many connections that ended.
func (m *Membership) Revoke(ctx context.Context, node string) (n meshdb.Node, cut int, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	n, ok := m.nodes[node]
	if !ok {
		return n, 0, errUnknownNode
	}
	if n.RevokedAt == 0 {
		n.RevokedAt = m.clock().UnixNano()
		if err := m.registry.RevokeNode(ctx, node, n.RevokedAt); err != nil {
			return n, 0, err
		}
		m.nodes[node] = n
		m.logger.InfoContext(ctx, "node revoked", slog.String("node", node), slog.String("region", n.Region))
	}
	if m.connections != nil {
		cut = m.connections.Disconnect(func(p *identity.Principal) bool { return p.ID == node })
	}
	return n, cut, nil
}
