package matrix_test

import (
	"context"
	"net/http"
	"strings"
	"testing"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/wrapperspb"

	controlv1 "github.com/nearside-dev/nearside/gen/nearside/control/v1"
	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/gen/nearside/data/v1/datav1connect"
	"github.com/nearside-dev/nearside/internal/meshtest/echo"
)

// TestTime has deadlines and cancellations pass in each protocol, and reach the service.
func TestTime(t *testing.T) {
	m, certFile := start(t)
	foreign := []*service{
		register(t, m, "registered", "acme.echo.v1", controlv1.ServiceProtocol_SERVICE_PROTOCOL_UNSPECIFIED),
		register(t, m, "registered, gRPC alone", "acme.grpcecho.v1", controlv1.ServiceProtocol_SERVICE_PROTOCOL_GRPC),
	}
	for _, w := range ways(t, m, region, certFile) {
		if w.codec != "proto" || w.compression != "identity" {
			continue
		}
		t.Run(w.name(), func(t *testing.T) {
			// What a client says of its time is all that is said here: it would itself not wait longer.
			timeout := func(h http.Header) {
				if strings.HasPrefix(w.door.name, "gRPC") {
					h.Set("Grpc-Timeout", "250m")
				} else {
					h.Set("Connect-Timeout-Ms", "250")
				}
			}
			for _, s := range foreign {
				s.time(t, w, timeout)
			}
			req := connect.NewRequest(query("WITH RECURSIVE c (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c) SELECT count(*) FROM c"))
			timeout(req.Header())
			_, err := client[datav1.QueryRequest, datav1.QueryResponse](w, datav1connect.DataServiceQueryProcedure,
				connect.WithIdempotency(connect.IdempotencyNoSideEffects)).CallUnary(t.Context(), req)
			wantError(t, err, connect.CodeDeadlineExceeded, "")
		})
	}
}

func (s *service) time(t *testing.T, w *way, timeout func(http.Header)) {
	call := func(ctx context.Context, set func(http.Header)) error {
		path, options := s.path(echo.Echo), []connect.ClientOption(nil)
		if w.get {
			path, options = s.path(echo.Get), []connect.ClientOption{connect.WithIdempotency(connect.IdempotencyNoSideEffects)}
		}
		req := connect.NewRequest(wrapperspb.String(echo.Wait))
		req.Header().Set("Watched", "yes")
		set(req.Header())
		_, err := client[wrapperspb.StringValue, wrapperspb.StringValue](w, path, options...).CallUnary(ctx, req)
		return err
	}
	stream := func(ctx context.Context, set func(http.Header)) error {
		req := connect.NewRequest(wrapperspb.Int64(echo.WaitFor))
		req.Header().Set("Watched", "yes")
		set(req.Header())
		counted, err := s.numbers(w, echo.Count).CallServerStream(ctx, req)
		if err != nil {
			return err
		}
		n := 0
		for counted.Receive() {
			n++
		}
		_ = counted.Close()
		if n != 2 && ctx.Err() == nil {
			t.Errorf("%s: %d messages came before the wait", s.name, n)
		}
		return counted.Err()
	}
	calls := map[string]func(context.Context, func(http.Header)) error{unary: call, serverStream: stream}
	for kind, call := range calls {
		if forbidden(w.door, w.version, kind) != "" {
			continue
		}
		wantError(t, call(t.Context(), timeout), connect.CodeDeadlineExceeded, "")
		if told := <-s.entered; told == "" {
			t.Errorf("%s, %s: the service was told no deadline", s.name, kind)
		}
		<-s.ended
		ctx, cancel := context.WithCancel(t.Context())
		failed := make(chan error, 1)
		go func() { failed <- call(ctx, func(http.Header) {}) }()
		<-s.entered
		cancel()
		<-s.ended // the service has heard of it
		if err := <-failed; connect.CodeOf(err) != connect.CodeCanceled {
			t.Errorf("%s, %s: canceled, and %v", s.name, kind, err)
		}
	}
}
