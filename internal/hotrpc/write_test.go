package hotrpc

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"

	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/internal/rpcerr"
)

func (o *observer) Failed(connect.Code, time.Duration) { o.failed++ }

// newWriter returns a handler whose method does as the message says and counts what it did, and whose general handler says
// what it read.
func newWriter(t *testing.T, o *observer, logs io.Writer, done *int) http.Handler {
	t.Helper()
	errs, err := rpcerr.NewInterceptor(slog.New(slog.NewTextHandler(logs, nil)))
	if err != nil {
		t.Fatal(err)
	}
	return NewWriteHandler(WriteOptions{
		Method: func(ctx context.Context, _ http.Header, msg []byte, a *Answer) error {
			if string(msg) == "pass" {
				return ErrPass
			}
			*done++
			a.Message = append(a.Message, msg...)
			switch string(msg) {
			case "panic":
				panic("a secret")
			case "known":
				return rpcerr.New(datav1.ErrorReason_ERROR_REASON_CONSTRAINT_FAILED, "no good")
			case "unknown":
				return errors.New("a secret")
			case "wait":
				<-ctx.Done()
				return ctx.Err()
			}
			a.Region = []string{"r"}
			return nil
		},
		General: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			body, err := io.ReadAll(r.Body)
			w.Header().Set("General", string(body))
			if err != nil {
				w.Header().Set("Error", err.Error())
			}
		}),
		Metrics: o, Procedure: "/p", Errors: errs,
	})
}

func TestWriteHandler(t *testing.T) {
	for _, tt := range []struct {
		name, body string
		length     int64
		header     []string

		general bool
		answer  string // a part of it
		logged  string // "": nothing
		done    int
		counts  observer
	}{
		{name: "done", body: "yes", answer: "yes", done: 1, counts: observer{begun: 1, answered: 1}},
		{name: "passed", body: "pass", general: true, counts: observer{begun: 1, passed: 1}},
		{name: "not looked at", body: "yes", header: []string{"Content-Type", "application/json"}, general: true},
		{name: "shorter than it says", body: "yes", length: 4, general: true, counts: observer{begun: 1, passed: 1}},
		{name: "known error", body: "known", answer: `"failed_precondition"`, done: 1, counts: observer{begun: 1, failed: 1}},
		{
			name: "unknown error", body: "unknown", answer: `{"code":"internal","message":"internal error"}`, logged: "a secret",
			done: 1, counts: observer{begun: 1, failed: 1},
		},
		{
			name: "panic", body: "panic", answer: `{"code":"internal","message":"internal error"}`, logged: "a secret",
			done: 1, counts: observer{begun: 1, failed: 1},
		},
		{
			name: "out of time", body: "wait", header: []string{"Connect-Timeout-Ms", "1"}, answer: `"deadline_exceeded"`,
			done: 1, counts: observer{begun: 1, failed: 1},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var o observer
			var logs bytes.Buffer
			done, length := 0, tt.length
			if length == 0 {
				length = int64(len(tt.body))
			}
			body, header := serve(newWriter(t, &o, &logs, &done), strings.NewReader(tt.body), length, tt.header...)
			if general := header["General"] != nil; general != tt.general || general && header.Get("General") != tt.body {
				t.Errorf("general handler: %q, want %v", header["General"], tt.general)
			}
			if !strings.Contains(body, tt.answer) || strings.Contains(body, "secret") {
				t.Errorf("answer %q, want %q", body, tt.answer)
			}
			if tt.logged == "" && logs.Len() > 0 || !strings.Contains(logs.String(), tt.logged) {
				t.Errorf("logged %q, want %q", logs.String(), tt.logged)
			}
			if done != tt.done || o != tt.counts {
				t.Errorf("done %d times, want %d; counted %+v, want %+v", done, tt.done, o, tt.counts)
			}
		})
	}
}
