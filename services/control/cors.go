package control

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/durationpb"

	controlv1 "github.com/nearside-dev/nearside/gen/nearside/control/v1"
	"github.com/nearside-dev/nearside/gen/nearside/control/v1/controlv1connect"
	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/internal/cors"
	"github.com/nearside-dev/nearside/internal/identity"
	"github.com/nearside-dev/nearside/internal/meshdb"
	"github.com/nearside-dev/nearside/internal/rpcerr"
	"github.com/nearside-dev/nearside/internal/rpcheader"
	"github.com/nearside-dev/nearside/internal/value"
	"github.com/nearside-dev/nearside/services/data/engine"
)

// CorsService keeps the policy by which gateways let pages of other origins read their answers, a row of _mesh.
type CorsService struct {
	mesh     *engine.DB
	bookmark func() string
}

var _ controlv1connect.CorsServiceHandler = (*CorsService)(nil)

// NewCorsService returns a CorsService. bookmark returns that of _mesh as it is now, by which a gateway knows when it has what was
// done.
func NewCorsService(mesh *engine.DB, bookmark func() string) *CorsService {
	return &CorsService{mesh: mesh, bookmark: bookmark}
}

// GetCorsPolicy implements controlv1connect.CorsServiceHandler.
func (s *CorsService) GetCorsPolicy(
	ctx context.Context, _ *connect.Request[controlv1.GetCorsPolicyRequest],
) (*connect.Response[controlv1.GetCorsPolicyResponse], error) {
	msg := &controlv1.GetCorsPolicyResponse{}
	err := s.mesh.View(ctx, func(v *engine.View) error {
		_, err := v.Query(&datav1.Statement{
			Sql:        "SELECT origins, credentials, allow_headers, expose_headers, max_age_seconds FROM cors WHERE name = ?1",
			Parameters: value.ToProtos([]value.Value{value.Text(meshdb.CORSDefault)}),
		}, corsRow(func(v []value.Value) {
			msg.Policy = &controlv1.CorsPolicy{
				Origins: strings.Fields(v[0].Text()), Credentials: v[1].Integer() != 0, AllowHeaders: strings.Fields(v[2].Text()),
				ExposeHeaders: strings.Fields(v[3].Text()), MaxAge: durationpb.New(time.Duration(v[4].Integer()) * time.Second),
			}
		}))
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read CORS policy: %w", err)
	}
	return connect.NewResponse(msg), nil
}

// corsRow takes the row of the policy.
type corsRow func([]value.Value)

// Columns implements the engine's sink.
func (corsRow) Columns([]*datav1.Column) error { return nil }

// Row implements the engine's sink.
func (f corsRow) Row(row *datav1.Row, _ int) error {
	f(value.FromProtos(row.GetValues()))
	return nil
}

// SetCorsPolicy implements controlv1connect.CorsServiceHandler.
func (s *CorsService) SetCorsPolicy(
	ctx context.Context, req *connect.Request[controlv1.SetCorsPolicyRequest],
) (*connect.Response[controlv1.SetCorsPolicyResponse], error) {
	in := req.Msg.GetPolicy()
	asked := cors.Policy{
		Origins: in.GetOrigins(), Credentials: in.GetCredentials(), AllowHeaders: in.GetAllowHeaders(), ExposeHeaders: in.GetExposeHeaders(),
		MaxAge: cors.DefaultMaxAge,
	}
	if in.GetMaxAge() != nil {
		asked.MaxAge = in.GetMaxAge().AsDuration().Truncate(time.Second)
	}
	p, err := cors.Normalize(asked)
	if field, ok := errors.AsType[*cors.FieldError](err); ok {
		return nil, rpcerr.InvalidField("policy."+field.Field, "%v", field.Err)
	}
	if err != nil {
		return nil, err
	}
	credentials := value.Integer(0)
	if p.Credentials {
		credentials = value.Integer(1)
	}
	if err := s.transact(ctx, engine.SQL(
		`INSERT INTO cors (name, origins, credentials, allow_headers, expose_headers, max_age_seconds) VALUES (?1, ?2, ?3, ?4, ?5, ?6)
		ON CONFLICT (name) DO UPDATE SET origins = excluded.origins, credentials = excluded.credentials,
		allow_headers = excluded.allow_headers, expose_headers = excluded.expose_headers, max_age_seconds = excluded.max_age_seconds`,
		value.Text(meshdb.CORSDefault), value.Text(strings.Join(p.Origins, " ")), credentials, value.Text(strings.Join(p.AllowHeaders, " ")),
		value.Text(strings.Join(p.ExposeHeaders, " ")), value.Integer(int64(p.MaxAge/time.Second)),
	)); err != nil {
		return nil, fmt.Errorf("set CORS policy: %w", err)
	}
	res := connect.NewResponse(&controlv1.SetCorsPolicyResponse{Policy: &controlv1.CorsPolicy{
		Origins: p.Origins, Credentials: p.Credentials, AllowHeaders: p.AllowHeaders, ExposeHeaders: p.ExposeHeaders,
		MaxAge: durationpb.New(p.MaxAge),
	}})
	res.Header().Set(rpcheader.Bookmark, s.bookmark())
	return res, nil
}

// ClearCorsPolicy implements controlv1connect.CorsServiceHandler.
func (s *CorsService) ClearCorsPolicy(
	ctx context.Context, _ *connect.Request[controlv1.ClearCorsPolicyRequest],
) (*connect.Response[controlv1.ClearCorsPolicyResponse], error) {
	if err := s.transact(ctx, engine.SQL("DELETE FROM cors")); err != nil {
		return nil, fmt.Errorf("clear CORS policy: %w", err)
	}
	res := connect.NewResponse(&controlv1.ClearCorsPolicyResponse{})
	res.Header().Set(rpcheader.Bookmark, s.bookmark())
	return res, nil
}

func (s *CorsService) transact(ctx context.Context, op engine.Operation) error {
	_, err := s.mesh.Transact(ctx, &engine.Transaction{Operations: []engine.Operation{op}, Actor: identity.From(ctx).Actor()})
	return err
}
