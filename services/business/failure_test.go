package business

import (
	"errors"
	"strings"
	"testing"

	"connectrpc.com/connect"

	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/internal/rpcerr"
)

// TestCallerErrorOfEveryReason: each reason of an inner call reaches the caller as it is, as another one, or as an unknown
// error that says nothing.
func TestCallerErrorOfEveryReason(t *testing.T) {
	const secret = "what only the log should see"
	pass, notReady := 0, 0
	for n := range datav1.ErrorReason_name {
		reason := datav1.ErrorReason(n)
		inner, _ := rpcerr.ToConnect(rpcerr.New(reason, secret).With("operation", "0"))
		err := callerError("do it", inner)
		wire, known := rpcerr.ToConnect(err)
		switch got := rpcerr.ReasonOf(err); {
		case got == reason && known:
			pass++
			if wire.Code() != inner.Code() {
				t.Errorf("%v: code %v became %v", reason, inner.Code(), wire.Code())
			}
		case got == datav1.ErrorReason_ERROR_REASON_NOT_READY:
			notReady++
		default:
			if known || strings.Contains(wire.Message(), secret) || !strings.Contains(err.Error(), secret) {
				t.Errorf("%v: %v reaches the caller, %v the log", reason, wire, err)
			}
		}
	}
	if pass != 21 || notReady != 2 {
		t.Errorf("%d reasons pass and %d become NOT_READY, want 21 and 2", pass, notReady)
	}
}

func TestCallerErrorWithoutReason(t *testing.T) {
	for _, tc := range []struct {
		err  error
		want connect.Code
	}{
		{connect.NewError(connect.CodeUnavailable, errors.New("dial tcp 127.0.0.1:1")), connect.CodeUnavailable},
		{connect.NewError(connect.CodeCanceled, errors.New("gone")), connect.CodeCanceled},
		{connect.NewError(connect.CodeDeadlineExceeded, errors.New("late")), connect.CodeDeadlineExceeded},
		{connect.NewError(connect.CodeUnimplemented, errors.New("404")), connect.CodeInternal},
		{errors.New("a row that cannot be read"), connect.CodeInternal},
		{notFound("user", "usr_1"), connect.CodeNotFound},
	} {
		wire, _ := rpcerr.ToConnect(callerError("do it", tc.err))
		if wire.Code() != tc.want {
			t.Errorf("%v reaches the caller as %v, want %v", tc.err, wire.Code(), tc.want)
		}
		if strings.Contains(wire.Message(), "127.0.0.1") {
			t.Errorf("the caller is told %q", wire.Message())
		}
	}
}
