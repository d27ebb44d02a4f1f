package nodes

import (
	"cmp"
	"context"
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"path/filepath"
	"regexp"
	"slices"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/timestamppb"

	controlv1 "github.com/nearside-dev/nearside/gen/nearside/control/v1"
	"github.com/nearside-dev/nearside/gen/nearside/control/v1/controlv1connect"
	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/internal/audit"
	"github.com/nearside-dev/nearside/internal/identity"
	"github.com/nearside-dev/nearside/internal/meshdb"
	"github.com/nearside-dev/nearside/internal/pki"
	"github.com/nearside-dev/nearside/internal/rpcerr"
	"github.com/nearside-dev/nearside/internal/server"
)

// Service answers NodeService and NodeAdminService for a Membership.
type Service struct{ *Membership }

var (
	_ controlv1connect.NodeServiceHandler      = Service{}
	_ controlv1connect.NodeAdminServiceHandler = Service{}
)

var regionPattern = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_-]{0,62}$`)

// LocateToken implements controlv1connect.NodeServiceHandler.
func (s Service) LocateToken(
	ctx context.Context, _ *connect.Request[controlv1.LocateTokenRequest],
) (*connect.Response[controlv1.LocateTokenResponse], error) {
	res := &controlv1.LocateTokenResponse{Required: s.required}
	addr, _ := server.Remote(ctx)
	if a, err := netip.ParseAddr(addr); err == nil && a.IsLoopback() {
		if res.File, err = filepath.Abs(filepath.Join(s.dir, TokenFile)); err != nil {
			return nil, err
		}
	}
	return connect.NewResponse(res), nil
}

// Join implements controlv1connect.NodeServiceHandler.
func (s Service) Join(
	ctx context.Context, req *connect.Request[controlv1.JoinRequest],
) (*connect.Response[controlv1.JoinResponse], error) {
	region := req.Msg.GetRegion()
	if !regionPattern.MatchString(region) {
		return nil, rpcerr.InvalidField("region", "must be the name of a region")
	}
	key, hash, err := requestKey(req.Msg.GetCertificateRequest())
	if err != nil {
		return nil, err
	}
	note := audit.NoteOf(ctx)
	note.Target = "region=" + region
	node, err := s.join(ctx, req.Msg.GetSecret(), region, hash)
	if err != nil {
		return nil, err
	}
	note.Actor = identity.Node.String() + ":" + node
	chain, err := s.authority.Issue(key, s.sidecar(region), node)
	if err != nil {
		return nil, err
	}
	if err := s.refreshTokenFile(); err != nil {
		s.logger.WarnContext(ctx, "join token not written", slog.Any("error", err))
	}
	return connect.NewResponse(&controlv1.JoinResponse{
		Certificates: encode(chain), Authorities: encode(s.authority.Roots()), Node: node,
	}), nil
}

// join spends a secret and returns the node that its key is now.
func (s Service) join(ctx context.Context, secret, region, key string) (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	node, again, err := s.tokens.spend(secret, region, key, newNodeID())
	if err != nil {
		return "", err
	}
	if n, ok := s.nodes[node]; again && ok {
		if n.RevokedAt != 0 {
			return "", errToken.Clone()
		}
		return node, nil
	}
	n := meshdb.Node{ID: node, Region: region, JoinedAt: s.clock().UnixNano()}
	// From here on it is known: it is the node that joins, by whomever its token was made.
	self := &identity.Principal{Kind: identity.Node, ID: node, Region: region}
	if err := s.registry.AddNode(identity.With(ctx, self), n); err != nil {
		return "", err
	}
	s.nodes[node] = n
	s.logger.InfoContext(ctx, "node joined", slog.String("node", node), slog.String("region", region))
	return node, nil
}

// Renew implements controlv1connect.NodeServiceHandler.
func (s Service) Renew(
	ctx context.Context, req *connect.Request[controlv1.RenewRequest],
) (*connect.Response[controlv1.RenewResponse], error) {
	p := identity.From(ctx)
	key, _, err := requestKey(req.Msg.GetCertificateRequest())
	if err != nil {
		return nil, err
	}
	if err := s.check(p.ID, p.Region); err != nil {
		return nil, rpcerr.New(datav1.ErrorReason_ERROR_REASON_NODE_ONLY, "%w", err).
			With("procedure", controlv1connect.NodeServiceRenewProcedure)
	}
	chain, err := s.authority.Issue(key, s.sidecar(p.Region), p.ID)
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&controlv1.RenewResponse{
		Certificates: encode(chain), Authorities: encode(s.authority.Roots()),
	}), nil
}

// renewSelf renews the primary's own certificate.
func (m *Membership) renewSelf(_ context.Context, request []byte) (chain, roots []*x509.Certificate, err error) {
	key, err := pki.ParseRequest(request)
	if err != nil {
		return nil, nil, err
	}
	chain, err = m.authority.Issue(key, m.self(), primaryNode)
	return chain, m.authority.Roots(), err
}

func (m *Membership) sidecar(region string) pki.ID {
	return pki.ID{Mesh: m.authority.Mesh(), Region: region, Role: pki.RoleSidecar}
}

// requestKey returns the key that a request is for, and its hash.
func requestKey(der []byte) (*ecdsa.PublicKey, string, error) {
	key, err := pki.ParseRequest(der)
	if err != nil {
		return nil, "", rpcerr.InvalidField("certificate_request", "%v", err)
	}
	text, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return nil, "", err
	}
	sum := sha256.Sum256(text)
	return key, hex.EncodeToString(sum[:]), nil
}

func encode(certificates []*x509.Certificate) [][]byte {
	out := make([][]byte, len(certificates))
	for i, c := range certificates {
		out[i] = c.Raw
	}
	return out
}

// ListNodes implements controlv1connect.NodeAdminServiceHandler.
func (s Service) ListNodes(
	context.Context, *connect.Request[controlv1.ListNodesRequest],
) (*connect.Response[controlv1.ListNodesResponse], error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	res := &controlv1.ListNodesResponse{}
	for _, n := range s.nodes {
		res.Nodes = append(res.Nodes, s.info(n))
	}
	slices.SortFunc(res.Nodes, func(a, b *controlv1.NodeInfo) int {
		return cmp.Or(b.GetJoinTime().AsTime().Compare(a.GetJoinTime().AsTime()), cmp.Compare(a.GetNode(), b.GetNode()))
	})
	return connect.NewResponse(res), nil
}

func (s Service) info(n meshdb.Node) *controlv1.NodeInfo {
	info := &controlv1.NodeInfo{
		Node: n.ID, Region: n.Region, SpiffeId: s.sidecar(n.Region).String(),
		JoinTime: timestamppb.New(time.Unix(0, n.JoinedAt)),
	}
	if n.RevokedAt != 0 {
		info.RevokeTime = timestamppb.New(time.Unix(0, n.RevokedAt))
	}
	if s.connections != nil {
		info.Connections = uint32(s.connections.CountNodes(func(p *identity.Principal) bool { return p.ID == n.ID }))
	}
	return info
}

// RevokeNode implements controlv1connect.NodeAdminServiceHandler.
func (s Service) RevokeNode(
	ctx context.Context, req *connect.Request[controlv1.RevokeNodeRequest],
) (*connect.Response[controlv1.RevokeNodeResponse], error) {
	n, cut, err := s.Revoke(ctx, req.Msg.GetNode())
	if errors.Is(err, errUnknownNode) {
		return nil, rpcerr.New(datav1.ErrorReason_ERROR_REASON_RESOURCE_NOT_FOUND, "there is no node %.64q", req.Msg.GetNode()).
			With("resource", "node").With("id", fmt.Sprintf("%.64s", req.Msg.GetNode()))
	}
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return connect.NewResponse(&controlv1.RevokeNodeResponse{Node: s.info(n), ConnectionsCut: uint32(cut)}), nil
}

// CreateJoinToken implements controlv1connect.NodeAdminServiceHandler.
func (s Service) CreateJoinToken(
	_ context.Context, req *connect.Request[controlv1.CreateJoinTokenRequest],
) (*connect.Response[controlv1.CreateJoinTokenResponse], error) {
	region, ttl := req.Msg.GetRegion(), DefaultTokenTTL
	if region != "" && !regionPattern.MatchString(region) {
		return nil, rpcerr.InvalidField("region", "must be the name of a region, or empty")
	}
	if req.Msg.GetTtl() != nil {
		ttl = req.Msg.GetTtl().AsDuration()
	}
	if ttl < time.Second || ttl > MaxTokenTTL {
		return nil, rpcerr.InvalidField("ttl", "must be from a second to %s", MaxTokenTTL)
	}
	t, err := s.Token(region, ttl)
	if err != nil {
		return nil, err
	}
	text, err := t.Encode()
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&controlv1.CreateJoinTokenResponse{
		Token: string(text), ExpireTime: timestamppb.New(t.Expires),
	}), nil
}
