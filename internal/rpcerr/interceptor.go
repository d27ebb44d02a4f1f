package rpcerr

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"

	"buf.build/go/protovalidate"
	"connectrpc.com/connect"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/protobuf/proto"

	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/internal/requestid"
)

// Interceptor stands outermost on every handler: it checks requests against their protovalidate rules and maps the errors
// that come back. Unknown errors are logged whole and reach the client as "internal".
type Interceptor struct {
	validator protovalidate.Validator
	logger    *slog.Logger
}

var _ connect.Interceptor = (*Interceptor)(nil)

// NewInterceptor returns an Interceptor that logs to logger.
func NewInterceptor(logger *slog.Logger) (*Interceptor, error) {
	validator, err := protovalidate.New()
	if err != nil {
		return nil, err
	}
	return &Interceptor{validator: validator, logger: logger}, nil
}

// WrapUnary implements connect.Interceptor.
func (i *Interceptor) WrapUnary(next connect.UnaryFunc) connect.UnaryFunc {
	return func(ctx context.Context, req connect.AnyRequest) (connect.AnyResponse, error) {
		if req.Spec().IsClient {
			return next(ctx, req)
		}
		if err := i.validate(req.Any()); err != nil {
			return nil, i.Wire(ctx, req.Spec().Procedure, err)
		}
		res, err := next(ctx, req)
		if err != nil {
			return nil, i.Wire(ctx, req.Spec().Procedure, err)
		}
		return res, nil
	}
}

// WrapStreamingClient implements connect.Interceptor. It does nothing.
func (i *Interceptor) WrapStreamingClient(next connect.StreamingClientFunc) connect.StreamingClientFunc {
	return next
}

// WrapStreamingHandler implements connect.Interceptor.
func (i *Interceptor) WrapStreamingHandler(next connect.StreamingHandlerFunc) connect.StreamingHandlerFunc {
	return func(ctx context.Context, conn connect.StreamingHandlerConn) error {
		err := next(ctx, &validatingConn{StreamingHandlerConn: conn, interceptor: i})
		if err != nil {
			return i.Wire(ctx, conn.Spec().Procedure, err)
		}
		return nil
	}
}

type validatingConn struct {
	connect.StreamingHandlerConn

	interceptor *Interceptor
}

func (c *validatingConn) Receive(msg any) error {
	if err := c.StreamingHandlerConn.Receive(msg); err != nil {
		return err
	}
	return c.interceptor.validate(msg)
}

// Check returns FIELD_INVALID for a request that breaks its rules: for messages that come within others.
func (i *Interceptor) Check(msg proto.Message) error { return i.validate(msg) }

// Wire returns the error that a procedure's caller gets to see, and logs one that nobody should: the caller is told which request it
// was, so that whoever reads the log finds it.
func (i *Interceptor) Wire(ctx context.Context, procedure string, err error) *connect.Error {
	wire, known := ToConnect(err)
	if known {
		return wire
	}
	id := requestid.From(ctx).String()
	i.logger.ErrorContext(ctx, "unknown error reached a handler", slog.String("procedure", procedure), slog.Any("error", err))
	if id == "" {
		return wire
	}
	told := connect.NewError(wire.Code(), fmt.Errorf("%s (request %s)", wire.Message(), id))
	for _, d := range wire.Details() {
		told.AddDetail(d)
	}
	if d, err := connect.NewErrorDetail(&errdetails.RequestInfo{RequestId: id}); err == nil {
		told.AddDetail(d)
	}
	return told
}

func (i *Interceptor) validate(msg any) error {
	m, ok := msg.(proto.Message)
	if !ok || plain(msg) {
		return nil
	}
	return Broken(i.validator.Validate(m))
}

const (
	// maxBroken is how many broken rules a caller is told of: they come in headers.
	maxBroken = 50
	// maxBrokenText is how many bytes of a path, which may have keys of maps, or of what is wrong.
	maxBrokenText = 512
)

// Broken returns FIELD_INVALID for what a validator says of a request that breaks its rules. Other errors stay as they are.
func Broken(err error) error {
	violations, ok := errors.AsType[*protovalidate.ValidationError](err)
	if !ok {
		return err
	}
	e := New(datav1.ErrorReason_ERROR_REASON_FIELD_INVALID, "request breaks %d rules", len(violations.Violations))
	for n, v := range violations.Violations[:min(maxBroken, len(violations.Violations))] {
		f := Field{Path: cut(protovalidate.FieldPathString(v.Proto.GetField())), Description: cut(v.Proto.GetMessage())}
		if n == 0 {
			e.message = f.Description
			if f.Path != "" { // or it is a rule of the whole message
				e.message = f.Path + ": " + f.Description
			}
		}
		e.fields = append(e.fields, f)
	}
	return e
}

func cut(text string) string {
	if len(text) > maxBrokenText {
		return strings.ToValidUTF8(text[:maxBrokenText], "") + "…"
	}
	return text
}
