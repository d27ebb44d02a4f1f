package rpcerr_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"

	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/gen/nearside/data/v1/datav1connect"
	"github.com/nearside-dev/nearside/internal/rpcerr"
)

// failing answers every Get with an error.
type failing struct {
	datav1connect.UnimplementedDataServiceHandler

	err error
}

func (f *failing) Get(context.Context, *connect.Request[datav1.GetRequest]) (*connect.Response[datav1.GetResponse], error) {
	return nil, f.err
}

// over sends an error over a real connection and returns what arrives, and what was logged.
func over(t *testing.T, cause error, req *datav1.GetRequest) (logged string, err error) {
	t.Helper()
	var log strings.Builder
	interceptor, err := rpcerr.NewInterceptor(slog.New(slog.NewTextHandler(&log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.Handle(datav1connect.NewDataServiceHandler(&failing{err: cause}, connect.WithInterceptors(interceptor)))
	srv := httptest.NewServer(mux)
	defer srv.Close()
	_, err = datav1connect.NewDataServiceClient(srv.Client(), srv.URL).Get(context.Background(), connect.NewRequest(req))
	return log.String(), err
}

var valid = &datav1.GetRequest{Database: "d", Table: "t", Key: &datav1.Key{Values: []*datav1.Value{{}}}}

func TestEveryReasonSurvivesTheWire(t *testing.T) {
	for n, name := range datav1.ErrorReason_name {
		reason := datav1.ErrorReason(n)
		if n == 0 {
			continue
		}
		sent := rpcerr.New(reason, "because of %w", io.EOF).With("k", "v").
			WithFields(rpcerr.Field{Path: "a.b", Description: "rule"}).WithRetryAfter(3 * time.Second)
		if sent.Code() == connect.CodeInternal && reason != datav1.ErrorReason_ERROR_REASON_CORRUPT {
			t.Errorf("%s has no code", name)
		}
		if !errors.Is(sent, io.EOF) {
			t.Errorf("%s does not wrap", name)
		}
		_, err := over(t, fmt.Errorf("wrapped: %w", sent), valid)
		got, ok := rpcerr.FromError(err)
		if !ok || got.Reason() != reason || got.Code() != sent.Code() || got.Metadata("k") != "v" ||
			got.RetryAfter() != 3*time.Second || got.Error() != "because of EOF" {
			t.Errorf("%s arrived as %v", name, err)
		}
	}
}

func TestUnknownErrorsAreHiddenAndLogged(t *testing.T) {
	logged, err := over(t, errors.New("secret path /var/x"), valid)
	if connect.CodeOf(err) != connect.CodeInternal || strings.Contains(err.Error(), "secret") {
		t.Errorf("the client was told %v", err)
	}
	if !strings.Contains(logged, "secret path /var/x") {
		t.Errorf("the log says %q", logged)
	}
}

func TestContextErrorsHaveTheirCodes(t *testing.T) {
	for cause, code := range map[error]connect.Code{
		context.Canceled: connect.CodeCanceled, context.DeadlineExceeded: connect.CodeDeadlineExceeded,
	} {
		if _, err := over(t, fmt.Errorf("wrapped: %w", cause), valid); connect.CodeOf(err) != code {
			t.Errorf("%v arrived as %v", cause, err)
		}
	}
}

func TestBrokenRulesNameTheField(t *testing.T) {
	_, err := over(t, nil, &datav1.GetRequest{Database: "d", Table: "t"})
	if rpcerr.ReasonOf(err) != datav1.ErrorReason_ERROR_REASON_FIELD_INVALID || !strings.Contains(err.Error(), "key: ") {
		t.Errorf("error %v", err)
	}
}
