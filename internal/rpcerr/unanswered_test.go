package rpcerr

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"syscall"
	"testing"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/emptypb"
)

func TestUnanswered(t *testing.T) {
	for _, tc := range []struct {
		err  error
		want connect.Code
	}{
		{connect.NewError(connect.CodeCanceled, fmt.Errorf("read: %w", syscall.ECONNRESET)), connect.CodeUnavailable},
		{connect.NewError(connect.CodeCanceled, fmt.Errorf("write: %w", syscall.EPIPE)), connect.CodeUnavailable},
		{connect.NewError(connect.CodeInternal, fmt.Errorf("envelope: %w", io.ErrUnexpectedEOF)), connect.CodeUnavailable},
		{fmt.Errorf("get: %w", connect.NewError(connect.CodeUnknown, io.ErrUnexpectedEOF)), connect.CodeUnavailable},
		{connect.NewError(connect.CodeUnavailable, io.EOF), connect.CodeUnavailable},
		{connect.NewError(connect.CodeCanceled, context.Canceled), connect.CodeCanceled},
		{connect.NewError(connect.CodeDeadlineExceeded, context.DeadlineExceeded), connect.CodeDeadlineExceeded},
		{connect.NewError(connect.CodeInternal, errors.New("marshal")), connect.CodeInternal},
		{io.ErrUnexpectedEOF, connect.CodeUnknown}, // no call's
	} {
		if got := connect.CodeOf(Unanswered(tc.err)); got != tc.want {
			t.Errorf("%v is %v, want %v", tc.err, got, tc.want)
		}
	}
	if err := Unanswered(nil); err != nil {
		t.Errorf("no error became %v", err)
	}
}

// TestUnansweredLeavesAnswers: what a server says of connections of its own is its answer.
func TestUnansweredLeavesAnswers(t *testing.T) {
	server := httptest.NewServer(connect.NewUnaryHandler("/s/M", func(
		context.Context, *connect.Request[emptypb.Empty],
	) (*connect.Response[emptypb.Empty], error) {
		return nil, connect.NewError(connect.CodeCanceled, syscall.ECONNRESET)
	}))
	defer server.Close()
	c := connect.NewClient[emptypb.Empty, emptypb.Empty](http.DefaultClient, server.URL+"/s/M")
	_, err := c.CallUnary(t.Context(), connect.NewRequest(&emptypb.Empty{}))
	if got := Unanswered(err); connect.CodeOf(got) != connect.CodeCanceled {
		t.Errorf("the server's %v became %v", err, got)
	}
}
