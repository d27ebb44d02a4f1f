package access

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"sync"

	"connectrpc.com/connect"
	"github.com/prometheus/client_golang/prometheus"

	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/gen/nearside/data/v1/datav1connect"
	"github.com/nearside-dev/nearside/internal/catalog"
	"github.com/nearside-dev/nearside/internal/identity"
	"github.com/nearside-dev/nearside/internal/requestid"
	"github.com/nearside-dev/nearside/internal/rpcerr"
)

// Guard is what of a listener's checks is left where a message is known: the limit of its database, and whether the caller
// may. As an interceptor it stands inside rpcerr's, so that it sees valid messages only; handlers that answer without
// interceptors call Check themselves. A nil Guard lets everything through: it is a listener's without authentication.
type Guard struct {
	verifier   *Verifier
	authorizer Authorizer
	listener   Listener
	limits     *limits
	logins     *Backoff // of addresses; nil where any may fail
	auditor    Auditor  // nil for none
	logger     *slog.Logger
	denied     *prometheus.CounterVec
	limited    *prometheus.CounterVec
}

var _ connect.Interceptor = (*Guard)(nil)

// GuardOptions configures a Guard. Verifier and Logger are required.
type GuardOptions struct {
	Verifier   *Verifier
	Authorizer Authorizer            // default Policies by the Verifier's rows
	Logger     *slog.Logger          // is told of what was denied
	Auditor    Auditor               // is told of what was refused, denied and seen first; default nobody
	Registerer prometheus.Registerer // takes the metrics; default none
	// Listener is where the guard stands. Default: NoFilters.
	Listener Listener
	// FreeFailures is how many log-ins from an address may fail before it has to wait. 0 is any number: a primary's, to which the
	// gateways' callers come from few addresses.
	FreeFailures int
}

// NewGuard returns a Guard. The error is a metric's that the registerer has already.
func NewGuard(o GuardOptions) (*Guard, error) {
	g := &Guard{
		verifier: o.Verifier, authorizer: o.Authorizer, limits: newLimits(o.Verifier.clock), logger: o.Logger,
		listener: o.Listener,
		auditor:  o.Auditor,
		denied: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "nearside_auth_denied_total", Help: "Requests of callers who may not do what they asked for.",
		}, []string{"procedure"}),
		limited: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "nearside_auth_limited_total", Help: "Requests above a rate limit, by what it is of.",
		}, []string{"scope"}),
	}
	if o.FreeFailures > 0 {
		g.logins = NewBackoff(o.Verifier.clock, o.FreeFailures)
	}
	if g.authorizer == nil {
		g.authorizer = NewPolicies(o.Verifier)
	}
	if o.Registerer == nil {
		return g, nil
	}
	return g, errors.Join(o.Registerer.Register(g.denied), o.Registerer.Register(g.limited))
}

// Check returns PERMISSION_DENIED or RATE_LIMITED where the caller of ctx may not call a procedure with a valid message.
func (g *Guard) Check(ctx context.Context, procedure string, msg any) error {
	if g == nil {
		return nil
	}
	if m, ok := msg.(*datav1.TransactRequest); ok {
		return g.transact(ctx, procedure, m)
	}
	return g.ask(ctx, question(procedure, msg))
}

// transact is Check of a transaction: where policies may make a difference between tables, each operation is asked about.
func (g *Guard) transact(ctx context.Context, procedure string, m *datav1.TransactRequest) error {
	q := question(procedure, m)
	if s := g.verifier.current.Load(); s == nil || s.policies == nil || len(m.GetOperations()) == 0 {
		return g.ask(ctx, q)
	}
	if err := g.limitDatabase(q); err != nil {
		return err
	}
	for _, o := range m.GetOperations() {
		q.Table = catalog.Fold(tableOf(o))
		if err := g.decide(ctx, q); err != nil {
			return err
		}
	}
	return nil
}

// tableOf returns the table of a typed operation; "" of SQL.
func tableOf(o *datav1.Operation) string {
	switch op := o.GetOperation().(type) {
	case *datav1.Operation_Put:
		return op.Put.GetTable()
	case *datav1.Operation_Update:
		return op.Update.GetTable()
	case *datav1.Operation_Delete:
		return op.Delete.GetTable()
	default:
		return ""
	}
}

// CheckWrite returns PERMISSION_DENIED where the caller of ctx may not write a database: for what has turned out to write.
func (g *Guard) CheckWrite(ctx context.Context, procedure, database string) error {
	if g == nil {
		return nil
	}
	return g.decide(ctx, Question{Action: procedure, Right: RightWrite, Database: database})
}

// Credential returns ctx as that of the call of a credential's bearer: of calls that come within others.
func (g *Guard) Credential(ctx context.Context, authorization string) (context.Context, error) {
	if g == nil {
		return ctx, nil
	}
	p, err := g.verifier.Header(authorization)
	if err != nil {
		return nil, err
	}
	return identity.With(ctx, p), nil
}

// MayNow reports whether a principal may read a table at once. Where it may not, or where that is to be counted or logged, the
// answer is left to Check. database and table are not kept.
func (g *Guard) MayNow(p *identity.Principal, procedure, database, table string) bool {
	if g == nil {
		return true
	}
	if s := g.verifier.current.Load(); s == nil || len(s.limits) > 0 && s.limitsDatabase(database) {
		return false
	}
	q := Question{Action: procedure, Right: RightRead, Database: database, Table: catalog.Fold(table)}
	d := g.authorizer.Authorize(p, q)
	return d.Allowed && !d.Audit && d.refuses(q) == "" // what is filtered takes longer
}

func (s *state) limitsDatabase(database string) bool {
	_, ok := s.rate(limitKey{scope: scopeDatabase, subject: database})
	return ok
}

func (g *Guard) ask(ctx context.Context, q Question) error {
	if ruleOf(q.Action).node || public[q.Action] || login[q.Action] {
		return nil // the chain has seen to it
	}
	if err := g.limitDatabase(q); err != nil {
		return err
	}
	return g.decide(ctx, q)
}

func (g *Guard) limitDatabase(q Question) error {
	if s := g.verifier.current.Load(); s != nil && q.Database != "" {
		return g.limit(s, scopeDatabase, q.Database)
	}
	return nil
}

func (g *Guard) decide(ctx context.Context, q Question) error {
	p := identity.From(ctx)
	d := g.authorizer.Authorize(p, q)
	by := ""
	if d.Allowed {
		if by = g.refusal(&d, q); by != "" {
			d.Policy = PolicyPrefix + by
		}
	}
	allowed := d.Allowed && by == ""
	if g.auditor != nil && (!allowed || d.Audit) {
		g.auditor.Decided(ctx, p, q, Decision{Allowed: allowed, Policy: d.Policy})
	}
	if allowed {
		return nil
	}
	g.denied.WithLabelValues(q.Action).Inc()
	g.logger.InfoContext(ctx, "denied", slog.String("principal", p.String()), slog.String("action", q.Action),
		slog.String("database", q.Database), slog.String("table", q.Table), slog.String("policy", d.Policy))
	err := rpcerr.New(datav1.ErrorReason_ERROR_REASON_PERMISSION_DENIED, "%s may not do this", p)
	if d.Allowed {
		err = rpcerr.New(datav1.ErrorReason_ERROR_REASON_PERMISSION_DENIED,
			"%s may not do this where a policy makes a difference between tables or rows", p)
	}
	return err.With("action", q.Action).With("database", q.Database).With("policy", d.Policy)
}

// refuses returns the policy for which a method that is allowed is refused all the same, because what it reaches cannot be
// looked at table by table; "" is none.
func (d *Decision) refuses(q Question) string {
	if d.Restricted == "" {
		return ""
	}
	switch ruleOf(q.Action).reach {
	case reachSchema:
		return ""
	case reachTable, reachTyped:
		if q.Table != "" && d.Rows == nil {
			return ""
		}
		if d.Rows != nil {
			return d.Rows.Policy
		}
	default:
	}
	return d.Restricted
}

// limit takes a token of a subject's bucket, if there is such a limit.
func (g *Guard) limit(s *state, of scope, subject string) error {
	k := limitKey{scope: of, subject: subject}
	rate, ok := s.rate(k)
	if !ok {
		return nil
	}
	return g.take(k, rate)
}

func (g *Guard) take(k limitKey, rate Rate) error {
	wait, ok := g.limits.take(k, rate)
	if ok {
		return nil
	}
	g.limited.WithLabelValues(scopeNames[k.scope]).Inc()
	return limited(k.scope, wait)
}

// WrapUnary implements connect.Interceptor.
func (g *Guard) WrapUnary(next connect.UnaryFunc) connect.UnaryFunc {
	return func(ctx context.Context, req connect.AnyRequest) (connect.AnyResponse, error) {
		if req.Spec().IsClient {
			return next(ctx, req)
		}
		ctx = withHeader(ctx, req.Header())
		if err := g.Check(ctx, req.Spec().Procedure, req.Any()); err != nil {
			return nil, err
		}
		q := question(req.Spec().Procedure, req.Any())
		view := g.viewOf(identity.From(ctx), q).Name()
		res, err := next(ctx, req)
		if err == nil {
			err = g.after(ctx, req.Header(), q, view, res)
		}
		if err != nil && login[req.Spec().Procedure] {
			g.loginFailed(req.Peer().Addr, err)
		}
		if err == nil && req.Spec().Procedure == datav1connect.DataServiceListDatabasesProcedure {
			g.hideDatabases(ctx, res.Any())
		}
		if err != nil {
			return nil, err
		}
		return res, nil
	}
}

// mayLogIn returns RATE_LIMITED for an address that has to wait, because too many log-ins from it have failed or come at once.
func (g *Guard) mayLogIn(remote string, rate Rate) error {
	address := addressOf(remote)
	if g.logins != nil {
		if wait := g.logins.Wait(address); wait > 0 {
			g.limited.WithLabelValues(scopeNames[scopeLogin]).Inc()
			return limited(scopeLogin, wait)
		}
	}
	return g.take(limitKey{scope: scopeLogin, subject: address}, rate)
}

// loginFailed counts what looks like guessing. That one log-in succeeds takes nothing back: whoever guesses may have an account.
func (g *Guard) loginFailed(remote string, err error) {
	if g.logins == nil {
		return
	}
	switch rpcerr.ReasonOf(err) {
	case datav1.ErrorReason_ERROR_REASON_UNAUTHENTICATED, datav1.ErrorReason_ERROR_REASON_TOKEN_INVALID,
		datav1.ErrorReason_ERROR_REASON_ACCOUNT_LOCKED:
		g.logins.Failed(addressOf(remote))
	default:
	}
}

// hideDatabases leaves in a list the databases that the caller may read.
func (g *Guard) hideDatabases(ctx context.Context, msg any) {
	list, ok := msg.(*datav1.ListDatabasesResponse)
	if !ok {
		return
	}
	p := identity.From(ctx)
	shown := list.Databases[:0:0]
	for _, d := range list.Databases {
		q := Question{Action: datav1connect.DataServiceGetDatabaseProcedure, Right: RightRead, Database: d.GetName()}
		if g.authorizer.Authorize(p, q).Allowed {
			shown = append(shown, d)
		}
	}
	list.Databases = shown
}

// WrapStreamingClient implements connect.Interceptor. It does nothing.
func (g *Guard) WrapStreamingClient(next connect.StreamingClientFunc) connect.StreamingClientFunc {
	return next
}

// WrapStreamingHandler implements connect.Interceptor.
func (g *Guard) WrapStreamingHandler(next connect.StreamingHandlerFunc) connect.StreamingHandlerFunc {
	return func(ctx context.Context, conn connect.StreamingHandlerConn) error {
		ctx = withHeader(ctx, conn.RequestHeader())
		return next(ctx, &guardedConn{StreamingHandlerConn: conn, ctx: ctx, guard: g})
	}
}

type guardedConn struct {
	connect.StreamingHandlerConn

	ctx   context.Context //nolint:containedctx // Receive has none
	guard *Guard

	mu    sync.Mutex // one receives, another may send
	asked *Question  // the last one
	view  string     // what its caller saw then
	by    *state
}

// Receive implements connect.StreamingHandlerConn.
func (c *guardedConn) Receive(msg any) error {
	if err := c.StreamingHandlerConn.Receive(msg); err != nil {
		return err
	}
	q := question(c.Spec().Procedure, msg)
	c.mu.Lock()
	c.asked, c.by = &q, c.guard.verifier.current.Load()
	c.view = c.guard.viewOf(identity.From(c.ctx), q).Name()
	c.mu.Unlock()
	return c.guard.ask(c.ctx, q)
}

// Send implements connect.StreamingHandlerConn. A stream ends when its caller may not have it any more; that its token has
// come to its end meanwhile does not matter.
func (c *guardedConn) Send(msg any) error {
	if err := c.still(); err != nil {
		return err
	}
	return c.StreamingHandlerConn.Send(msg)
}

func (c *guardedConn) still() error {
	c.mu.Lock()
	q, by, view := c.asked, c.by, c.view
	c.mu.Unlock()
	if q == nil || Describe(q.Action) != "credential" {
		return nil
	}
	s, err := c.guard.verifier.state()
	if err != nil || s == by {
		return nil //nolint:nilerr // what cannot be read now is looked at with the next message
	}
	p, err := c.guard.verifier.Request(c.RequestHeader())
	switch {
	case rpcerr.ReasonOf(err) == datav1.ErrorReason_ERROR_REASON_TOKEN_EXPIRED:
	case err != nil:
		return err
	default:
		if err := c.guard.decide(identity.With(c.ctx, p), *q); err != nil {
			return err
		}
		if c.guard.viewOf(p, *q).Name() != view {
			return errView // what comes next was gathered for who saw something else
		}
	}
	c.mu.Lock()
	c.by = s
	c.mu.Unlock()
	return nil
}

var errView = rpcerr.New(datav1.ErrorReason_ERROR_REASON_WATCH_INTERRUPTED, "what the caller may see has changed: begin again")

// Interceptor returns g as an option of handlers; that of a nil Guard does nothing.
func (g *Guard) Interceptor() connect.HandlerOption {
	if g == nil {
		return connect.WithHandlerOptions()
	}
	return connect.WithInterceptors(g)
}

type headerKey struct{}

// withHeader keeps a request's header, for PassOn.
func withHeader(ctx context.Context, h http.Header) context.Context {
	return context.WithValue(ctx, headerKey{}, h)
}

func headerOf(ctx context.Context) http.Header {
	h, _ := ctx.Value(headerKey{}).(http.Header)
	return h
}

// PassOn writes the credential of the caller of ctx into the header of a call that is made for them, which then is theirs: at
// another node too, nothing else says who somebody is. The name of their request goes along.
func PassOn(ctx context.Context, h http.Header) {
	requestid.From(ctx).Set(h)
	if lines := headerOf(ctx)[authorizationHeader]; len(lines) == 1 {
		h[authorizationHeader] = lines
	}
}
