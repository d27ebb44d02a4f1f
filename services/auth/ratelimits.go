package auth

import (
	"context"

	"connectrpc.com/connect"

	authv1 "github.com/nearside-dev/nearside/gen/nearside/auth/v1"
	"github.com/nearside-dev/nearside/internal/meshdb"
	"github.com/nearside-dev/nearside/internal/rpcheader"
	"github.com/nearside-dev/nearside/internal/value"
	"github.com/nearside-dev/nearside/services/data/engine"
)

var scopeNames = map[authv1.RateLimitScope]string{
	authv1.RateLimitScope_RATE_LIMIT_SCOPE_IDENTITY: "identity", authv1.RateLimitScope_RATE_LIMIT_SCOPE_ADDRESS: "address",
	authv1.RateLimitScope_RATE_LIMIT_SCOPE_METHOD: "method", authv1.RateLimitScope_RATE_LIMIT_SCOPE_DATABASE: "database",
}

// SetRateLimit implements authv1connect.AccountServiceHandler.
func (s *Service) SetRateLimit(
	ctx context.Context, req *connect.Request[authv1.SetRateLimitRequest],
) (*connect.Response[authv1.SetRateLimitResponse], error) {
	l := req.Msg.GetLimit()
	_, err := transact(ctx, s.mesh, engine.SQL(
		`INSERT INTO rate_limits (scope, subject, per_second, burst) VALUES (?1, ?2, ?3, ?4)
		ON CONFLICT (scope, subject) DO UPDATE SET per_second = excluded.per_second, burst = excluded.burst`,
		text(scopeNames[l.GetScope()]), text(l.GetSubject()), value.Real(l.GetPerSecond()), integer(int64(l.GetBurst()))))
	if err != nil {
		return nil, err
	}
	return doneAt[authv1.SetRateLimitResponse](s), nil
}

// ListRateLimits implements authv1connect.AccountServiceHandler.
func (s *Service) ListRateLimits(
	ctx context.Context, _ *connect.Request[authv1.ListRateLimitsRequest],
) (*connect.Response[authv1.ListRateLimitsResponse], error) {
	msg := &authv1.ListRateLimitsResponse{}
	err := query(ctx, s.mesh, func(v []value.Value) {
		l := &authv1.RateLimit{Subject: v[1].Text(), PerSecond: v[2].Real(), Burst: uint32(v[3].Integer())}
		for scope, name := range scopeNames {
			if name == v[0].Text() {
				l.Scope = scope
			}
		}
		msg.Limits = append(msg.Limits, l)
	}, "SELECT scope, subject, per_second, burst FROM rate_limits ORDER BY scope, subject")
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(msg), nil
}

// DeleteRateLimit implements authv1connect.AccountServiceHandler.
func (s *Service) DeleteRateLimit(
	ctx context.Context, req *connect.Request[authv1.DeleteRateLimitRequest],
) (*connect.Response[authv1.DeleteRateLimitResponse], error) {
	_, err := transact(ctx, s.mesh, engine.SQL("DELETE FROM rate_limits WHERE scope = ?1 AND subject = ?2",
		text(scopeNames[req.Msg.GetScope()]), text(req.Msg.GetSubject())))
	if err != nil {
		return nil, err
	}
	return doneAt[authv1.DeleteRateLimitResponse](s), nil
}

// withMark returns an answer with the bookmark of _mesh, by which a region knows when it has what was done.
func withMark[T any](s *Service, msg *T) *connect.Response[T] {
	res := connect.NewResponse(msg)
	if h, ok := s.config.Log.Published(meshdb.DatabaseID); ok && s.config.Bookmark != nil {
		res.Header().Set(rpcheader.Bookmark, s.config.Bookmark(h))
	}
	return res
}

// doneAt is withMark of an answer that says no more than that it is done.
func doneAt[T any](s *Service) *connect.Response[T] { return withMark(s, new(T)) }
