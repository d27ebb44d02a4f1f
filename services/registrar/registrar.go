// Package registrar keeps the services that others run: rows of _mesh, from which each gateway routes their callers. It looks at
// descriptors and writes rows; it never calls a service.
package registrar

import (
	"context"
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/timestamppb"

	controlv1 "github.com/nearside-dev/nearside/gen/nearside/control/v1"
	"github.com/nearside-dev/nearside/gen/nearside/control/v1/controlv1connect"
	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/internal/fieldrules"
	"github.com/nearside-dev/nearside/internal/identity"
	"github.com/nearside-dev/nearside/internal/meshdb"
	"github.com/nearside-dev/nearside/internal/rpcerr"
	"github.com/nearside-dev/nearside/internal/rpcheader"
	"github.com/nearside-dev/nearside/internal/servicedesc"
	"github.com/nearside-dev/nearside/internal/value"
	"github.com/nearside-dev/nearside/services/data/engine"
)

// MaxServices is how many services there may be.
const MaxServices = 1000

// Options configures a Service. Mesh is required.
type Options struct {
	// Mesh is _mesh.
	Mesh *engine.DB
	// Bookmark returns the bookmark of _mesh as it is now, "" for none: by it a gateway knows when it has what was done.
	Bookmark func() string
	// Clock is what times of registration are by; default time.Now.
	Clock func() time.Time
}

// Service answers ServiceRegistryService.
type Service struct {
	options Options

	mu sync.Mutex // held while a service changes
}

var _ controlv1connect.ServiceRegistryServiceHandler = (*Service)(nil)

// New returns a Service.
func New(o Options) *Service {
	if o.Clock == nil {
		o.Clock = time.Now
	}
	if o.Bookmark == nil {
		o.Bookmark = func() string { return "" }
	}
	return &Service{options: o}
}

// reserved begin the names of services that are the mesh's own, or that each listener answers itself.
var reserved = []string{"nearside.", "grpc."}

// rolePattern is a role as accounts have them.
var rolePattern = regexp.MustCompile(`^(admin|(reader|writer|owner):[A-Za-z0-9_-]{1,63})$`)

var accessNames = map[controlv1.ServiceAccess]string{
	controlv1.ServiceAccess_SERVICE_ACCESS_UNSPECIFIED:   meshdb.AccessAuthenticated,
	controlv1.ServiceAccess_SERVICE_ACCESS_PUBLIC:        meshdb.AccessPublic,
	controlv1.ServiceAccess_SERVICE_ACCESS_AUTHENTICATED: meshdb.AccessAuthenticated,
	controlv1.ServiceAccess_SERVICE_ACCESS_ROLE:          meshdb.AccessRole,
}

// RegisterService implements controlv1connect.ServiceRegistryServiceHandler.
func (s *Service) RegisterService(
	ctx context.Context, req *connect.Request[controlv1.RegisterServiceRequest],
) (*connect.Response[controlv1.RegisterServiceResponse], error) {
	d, err := servicedesc.Read(req.Msg.GetDescriptors(), req.Msg.GetName())
	if err != nil {
		return nil, rpcerr.InvalidField("descriptors", "%v", err)
	}
	for _, prefix := range reserved {
		if strings.HasPrefix(d.Name, prefix) {
			return nil, rpcerr.InvalidField("name", "%s: names that begin with %s are not for others", d.Name, prefix)
		}
	}
	endpoints, err := checkEndpoints(req.Msg.GetEndpoints())
	if err != nil {
		return nil, err
	}
	access, role := accessNames[req.Msg.GetAccess()], req.Msg.GetRole()
	switch {
	case access != meshdb.AccessRole && role != "":
		return nil, rpcerr.InvalidField("role", "goes with SERVICE_ACCESS_ROLE alone")
	case access == meshdb.AccessRole && !rolePattern.MatchString(role):
		return nil, rpcerr.InvalidField("role", "%q is none: want admin, or reader, writer or owner with ':' and a database", role)
	}
	if err := checkRules(d, req.Msg.GetCacheRules()); err != nil {
		return nil, err
	}
	skip := req.Msg.GetSkipValidation()
	if !skip {
		if err := fieldrules.Of(d).Compile(); err != nil {
			return nil, rpcerr.InvalidField("descriptors", "%v", err)
		}
	}
	now := s.options.Clock()
	s.mu.Lock()
	defer s.mu.Unlock()
	replaced, err := s.room(ctx, d.Name)
	if err != nil {
		return nil, err
	}
	ops := []engine.Operation{
		engine.SQL("DELETE FROM services WHERE name = ?1", value.Text(d.Name)),
		engine.SQL(
			"INSERT INTO services (name, descriptors, access, role, pass_credentials, registered_at) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
			value.Text(d.Name), value.Blob(d.Set), value.Text(access), value.Text(role), flag(req.Msg.GetPassCredentials()),
			value.Integer(now.UnixNano())),
	}
	protocol := controlv1.ServiceProtocol_SERVICE_PROTOCOL_CONNECT
	if req.Msg.GetProtocol() == controlv1.ServiceProtocol_SERVICE_PROTOCOL_GRPC {
		protocol = req.Msg.GetProtocol()
		ops = append(ops, engine.SQL("INSERT INTO service_protocols (service, protocol) VALUES (?1, ?2)",
			value.Text(d.Name), value.Text(meshdb.ProtocolGRPC)))
	}
	if skip {
		ops = append(ops, engine.SQL("INSERT INTO service_unchecked (service) VALUES (?1)", value.Text(d.Name)))
	}
	for _, e := range endpoints {
		ops = append(ops, engine.SQL("INSERT INTO service_endpoints (service, region, url) VALUES (?1, ?2, ?3)",
			value.Text(d.Name), value.Text(e.GetRegion()), value.Text(e.GetUrl())))
	}
	for _, r := range req.Msg.GetCacheRules() {
		ops = append(ops, insertRule(d.Name, r))
	}
	if err := s.transact(ctx, ops); err != nil {
		return nil, fmt.Errorf("register %s: %w", d.Name, err)
	}
	res := connect.NewResponse(&controlv1.RegisterServiceResponse{Service: &controlv1.RegisteredService{
		Name: d.Name, Endpoints: endpoints, Access: accessOf(access), Role: role, PassCredentials: req.Msg.GetPassCredentials(),
		Methods: methods(d, !skip), RegisterTime: timestamppb.New(now), CacheRules: req.Msg.GetCacheRules(), Protocol: protocol,
		SkipValidation: skip,
	}, Replaced: replaced})
	s.mark(res.Header())
	return res, nil
}

func checkEndpoints(endpoints []*controlv1.ServiceEndpoint) ([]*controlv1.ServiceEndpoint, error) {
	out := make([]*controlv1.ServiceEndpoint, len(endpoints))
	for i, e := range endpoints {
		u, err := url.Parse(strings.TrimSuffix(e.GetUrl(), "/"))
		if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" || u.User != nil || u.Path != "" ||
			u.RawQuery != "" || u.Fragment != "" || !isPort(u.Port()) {
			// The URL is not in the error: it may have a password.
			return nil, rpcerr.InvalidField(fmt.Sprintf("endpoints[%d].url", i), "is not of the form http://HOST:PORT or https://HOST:PORT")
		}
		out[i] = &controlv1.ServiceEndpoint{Region: e.GetRegion(), Url: u.Scheme + "://" + u.Host}
	}
	slices.SortFunc(out, func(a, b *controlv1.ServiceEndpoint) int {
		return strings.Compare(a.GetRegion()+" "+a.GetUrl(), b.GetRegion()+" "+b.GetUrl())
	})
	return slices.CompactFunc(out, func(a, b *controlv1.ServiceEndpoint) bool {
		return a.GetRegion() == b.GetRegion() && a.GetUrl() == b.GetUrl()
	}), nil
}

// isPort reports whether a port is one, or left out.
func isPort(text string) bool {
	n, err := strconv.ParseUint(text, 10, 16)
	return text == "" || err == nil && n > 0
}

// room reports whether a service is there already; where it is not, there has to be room for it.
func (s *Service) room(ctx context.Context, name string) (there bool, err error) {
	count := int64(0)
	err = s.query(ctx, "SELECT count(*), coalesce(sum(name = ?1), 0) FROM services", func(v []value.Value) {
		count, there = v[0].Integer(), v[1].Integer() > 0
	}, value.Text(name))
	if err == nil && !there && count >= MaxServices {
		err = rpcerr.New(datav1.ErrorReason_ERROR_REASON_OVERLOADED, "there are %d services, and may be no more", count)
	}
	return there, err
}

// ListServices implements controlv1connect.ServiceRegistryServiceHandler.
func (s *Service) ListServices(
	ctx context.Context, _ *connect.Request[controlv1.ListServicesRequest],
) (*connect.Response[controlv1.ListServicesResponse], error) {
	msg := &controlv1.ListServicesResponse{}
	byName := make(map[string]*controlv1.RegisteredService)
	var bad error
	err := s.query(ctx, "SELECT name, descriptors, access, role, pass_credentials, registered_at, "+
		"name IN (SELECT service FROM service_unchecked) FROM services ORDER BY name",
		func(v []value.Value) {
			d, err := servicedesc.Read(v[1].Bytes(), v[0].Text())
			if err != nil {
				bad = fmt.Errorf("%w: %s: %w", meshdb.ErrRow, meshdb.TableServices, err)
				return
			}
			r := &controlv1.RegisteredService{
				Name: d.Name, Access: accessOf(v[2].Text()), Role: v[3].Text(), PassCredentials: v[4].Integer() != 0,
				Methods: methods(d, v[6].Integer() == 0), RegisterTime: timestamppb.New(time.Unix(0, v[5].Integer())),
				Protocol: controlv1.ServiceProtocol_SERVICE_PROTOCOL_CONNECT, SkipValidation: v[6].Integer() != 0,
			}
			byName[r.GetName()], msg.Services = r, append(msg.Services, r)
		})
	if err == nil {
		err = bad
	}
	if err != nil {
		return nil, err
	}
	err = s.query(ctx, "SELECT service, region, url FROM service_endpoints ORDER BY service, region, url", func(v []value.Value) {
		if r := byName[v[0].Text()]; r != nil {
			r.Endpoints = append(r.Endpoints, &controlv1.ServiceEndpoint{Region: v[1].Text(), Url: v[2].Text()})
		}
	})
	if err == nil {
		err = s.rules(ctx, byName)
	}
	if err != nil {
		return nil, err
	}
	err = s.query(ctx, "SELECT service FROM service_protocols WHERE protocol = ?1", func(v []value.Value) {
		if r := byName[v[0].Text()]; r != nil {
			r.Protocol = controlv1.ServiceProtocol_SERVICE_PROTOCOL_GRPC
		}
	}, value.Text(meshdb.ProtocolGRPC))
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(msg), nil
}

// RemoveService implements controlv1connect.ServiceRegistryServiceHandler.
func (s *Service) RemoveService(
	ctx context.Context, req *connect.Request[controlv1.RemoveServiceRequest],
) (*connect.Response[controlv1.RemoveServiceResponse], error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	name := req.Msg.GetName()
	there, err := s.room(ctx, name)
	if err == nil && !there || rpcerr.ReasonOf(err) == datav1.ErrorReason_ERROR_REASON_OVERLOADED {
		return nil, rpcerr.New(datav1.ErrorReason_ERROR_REASON_RESOURCE_NOT_FOUND, "no such service: %s", name).With("id", name)
	}
	if err != nil {
		return nil, err
	}
	if err := s.transact(ctx, []engine.Operation{engine.SQL("DELETE FROM services WHERE name = ?1", value.Text(name))}); err != nil {
		return nil, fmt.Errorf("remove %s: %w", name, err)
	}
	res := connect.NewResponse(&controlv1.RemoveServiceResponse{})
	s.mark(res.Header())
	return res, nil
}

func (s *Service) transact(ctx context.Context, ops []engine.Operation) error {
	_, err := s.options.Mesh.Transact(ctx, &engine.Transaction{Operations: ops, Actor: identity.From(ctx).Actor()})
	return err
}

func (s *Service) mark(h interface{ Set(key, value string) }) {
	if b := s.options.Bookmark(); b != "" {
		h.Set(rpcheader.Bookmark, b)
	}
}

func (s *Service) query(ctx context.Context, sql string, f func([]value.Value), parameters ...value.Value) error {
	err := s.options.Mesh.View(ctx, func(v *engine.View) error {
		_, err := v.Query(&datav1.Statement{Sql: sql, Parameters: value.ToProtos(parameters)}, sink(f))
		return err
	})
	if err != nil {
		return fmt.Errorf("read services: %w", err)
	}
	return nil
}

type sink func([]value.Value)

func (sink) Columns([]*datav1.Column) error { return nil }

func (f sink) Row(row *datav1.Row, _ int) error {
	f(value.FromProtos(row.GetValues()))
	return nil
}

func accessOf(name string) controlv1.ServiceAccess {
	switch name {
	case meshdb.AccessPublic:
		return controlv1.ServiceAccess_SERVICE_ACCESS_PUBLIC
	case meshdb.AccessRole:
		return controlv1.ServiceAccess_SERVICE_ACCESS_ROLE
	default:
		return controlv1.ServiceAccess_SERVICE_ACCESS_AUTHENTICATED
	}
}

func methods(d *servicedesc.Service, validated bool) []*controlv1.ServiceMethod {
	rules := fieldrules.Of(d)
	out := make([]*controlv1.ServiceMethod, len(d.Methods))
	for i, m := range d.Methods {
		out[i] = &controlv1.ServiceMethod{
			Name: m.Name, ClientStreaming: m.ClientStreaming, ServerStreaming: m.ServerStreaming, NoSideEffects: m.NoSideEffects,
			Validated: validated && rules.Method(m.Name) != nil,
		}
	}
	slices.SortFunc(out, func(a, b *controlv1.ServiceMethod) int { return strings.Compare(a.GetName(), b.GetName()) })
	return out
}

func flag(b bool) value.Value {
	if b {
		return value.Integer(1)
	}
	return value.Integer(0)
}
