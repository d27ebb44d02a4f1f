package auditlog

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"

	authv1 "github.com/nearside-dev/nearside/gen/nearside/auth/v1"
	"github.com/nearside-dev/nearside/gen/nearside/auth/v1/authv1connect"
	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/gen/nearside/data/v1/datav1connect"
	"github.com/nearside-dev/nearside/internal/access"
	"github.com/nearside-dev/nearside/internal/audit"
	"github.com/nearside-dev/nearside/internal/identity"
	"github.com/nearside-dev/nearside/internal/rpcerr"
)

// Changes records, as an interceptor of the primary's handlers, log-ins and what changes who may do what. What was done is on
// the disk before its caller hears of it; what was not is recorded a moment later.
type Changes struct {
	store    *Store
	recorder *audit.Recorder
}

var _ connect.Interceptor = (*Changes)(nil)

// NewChanges returns a Changes. The recorder takes what was not done.
func NewChanges(s *Store, r *audit.Recorder) *Changes { return &Changes{store: s, recorder: r} }

// Recorded reports whether calls of a method are recorded each: those that change something of the mesh itself. Writes of data
// are in the databases' own logs.
func Recorded(spec connect.Spec) bool {
	if spec.StreamType != connect.StreamTypeUnary || spec.IdempotencyLevel == connect.IdempotencyNoSideEffects {
		return false
	}
	switch spec.Procedure {
	case datav1connect.DataServiceCreateDatabaseProcedure, datav1connect.DataServiceDeleteDatabaseProcedure,
		datav1connect.DataServiceSetPlacementProcedure, datav1connect.DataServiceMigrateProcedure:
		return true
	case authv1connect.AuthServiceAuthorizeProcedure: // a question
		return false
	}
	return strings.HasPrefix(spec.Procedure, "/nearside.auth.") || strings.HasPrefix(spec.Procedure, "/nearside.control.") &&
		!strings.HasPrefix(spec.Procedure, "/nearside.control.v1.VerifyService/")
}

// WrapUnary implements connect.Interceptor.
func (c *Changes) WrapUnary(next connect.UnaryFunc) connect.UnaryFunc {
	return func(ctx context.Context, req connect.AnyRequest) (connect.AnyResponse, error) {
		if req.Spec().IsClient || !Recorded(req.Spec()) {
			return next(ctx, req)
		}
		if err := c.store.Problem(); err != nil {
			return nil, fmt.Errorf("nothing can be recorded for the audit: %w", err) // so nothing is done
		}
		ctx, note := audit.WithNote(ctx)
		res, err := next(ctx, req)
		e := c.entry(ctx, req, note, err)
		if err != nil {
			c.recorder.Record(e)
			return nil, err
		}
		c.recorder.Count(e.Decision)
		// Whoever has gone meanwhile has done it all the same.
		if err := c.store.Append(context.WithoutCancel(ctx), e.Proto(Node, 1)); err != nil {
			return nil, err
		}
		return res, nil
	}
}

func (c *Changes) entry(ctx context.Context, req connect.AnyRequest, note *audit.Note, err error) audit.Entry {
	procedure := req.Spec().Procedure
	e := audit.Entry{
		Time: c.store.config.Clock(), Action: audit.Action(procedure), Decision: decisionOf(err), Reason: audit.Reason(err),
		Target: note.Target,
	}
	e.Of(ctx)
	e.By(identity.From(ctx))
	if e.Actor == "" || access.Describe(procedure) == "public" {
		e.Actor, e.Credential = note.Actor, "" // who logs in is known afterwards
	}
	if e.Actor == "" && access.Describe(procedure) == "credential" {
		e.Actor = identity.Anonymous.String() // of a mesh that asks nobody who they are
	}
	if note.Reason != "" {
		e.Reason = note.Reason
	}
	if e.Target == "" && access.Describe(procedure) != "public" { // those have secrets, and names that may be some
		if m, ok := req.Any().(proto.Message); ok {
			e.Target = targetOf(m)
		}
	}
	e.Address, e.Region = audit.WhereFrom(ctx)
	if e.Address == "" {
		e.Address = audit.Address(req.Peer().Addr)
	}
	if e.Region == "" {
		e.Region = c.store.config.Region
	}
	return e
}

func decisionOf(err error) authv1.AuditDecision {
	if err == nil {
		return audit.Allowed
	}
	switch rpcerr.ReasonOf(err) {
	case datav1.ErrorReason_ERROR_REASON_UNAUTHENTICATED, datav1.ErrorReason_ERROR_REASON_TOKEN_INVALID,
		datav1.ErrorReason_ERROR_REASON_TOKEN_EXPIRED, datav1.ErrorReason_ERROR_REASON_ACCOUNT_LOCKED,
		datav1.ErrorReason_ERROR_REASON_JOIN_TOKEN_INVALID, datav1.ErrorReason_ERROR_REASON_RATE_LIMITED:
		return audit.Refused
	case datav1.ErrorReason_ERROR_REASON_PERMISSION_DENIED, datav1.ErrorReason_ERROR_REASON_NODE_ONLY:
		return audit.Denied
	default:
		return audit.Failed
	}
}

// shown are the fields of requests that entries have: names and numbers, of which none is a secret. What is not here is not
// recorded.
var shown = []protoreflect.Name{
	"name", "account", "account_id", "kind", "role", "database", "table", "disabled", "id", "session_id", "scope", "subject",
	"per_second", "burst", "node", "region", "regions", "access",
}

// targetOf returns what a request is about.
func targetOf(m proto.Message) string {
	var b strings.Builder
	appendTarget(&b, m.ProtoReflect())
	return b.String()
}

func appendTarget(b *strings.Builder, m protoreflect.Message) {
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		f := fields.Get(i)
		options, _ := f.Options().(*descriptorpb.FieldOptions)
		if !m.Has(f) || options.GetDebugRedact() || b.Len() > 512 {
			continue
		}
		list := f.IsList()
		switch {
		case f.IsMap():
		case f.Message() != nil && list:
			for j := range m.Get(f).List().Len() {
				appendTarget(b, m.Get(f).List().Get(j).Message())
			}
		case f.Message() != nil:
			appendTarget(b, m.Get(f).Message())
		case !slices.Contains(shown, f.Name()) || f.Kind() == protoreflect.BytesKind:
		case list:
			for j := range m.Get(f).List().Len() {
				appendField(b, f, m.Get(f).List().Get(j))
			}
		default:
			appendField(b, f, m.Get(f))
		}
	}
}

func appendField(b *strings.Builder, f protoreflect.FieldDescriptor, v protoreflect.Value) {
	if b.Len() > 0 {
		b.WriteByte(' ')
	}
	if f.Enum() != nil {
		name := "?"
		if d := f.Enum().Values().ByNumber(v.Enum()); d != nil {
			name = string(d.Name())
		}
		fmt.Fprintf(b, "%s=%s", f.Name(), name)
		return
	}
	fmt.Fprintf(b, "%s=%v", f.Name(), v.Interface())
}

// WrapStreamingClient implements connect.Interceptor. It does nothing.
func (c *Changes) WrapStreamingClient(next connect.StreamingClientFunc) connect.StreamingClientFunc {
	return next
}

// WrapStreamingHandler implements connect.Interceptor. It does nothing: streams change nothing of the mesh.
func (c *Changes) WrapStreamingHandler(next connect.StreamingHandlerFunc) connect.StreamingHandlerFunc {
	return next
}
