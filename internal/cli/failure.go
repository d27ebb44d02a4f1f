package cli

import (
	"encoding/json"
	"errors"

	"connectrpc.com/connect"
	"google.golang.org/genproto/googleapis/rpc/errdetails"

	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/internal/cli/importer"
	"github.com/nearside-dev/nearside/internal/rpcerr"
)

// failure is an error as programs read it.
type failure struct {
	Code     string            `json:"code"` // a Connect code's name; "unknown" for what failed on this side
	Message  string            `json:"message"`
	Reason   string            `json:"reason,omitempty"`
	Metadata map[string]string `json:"metadata,omitempty"`
	Line     int               `json:"line,omitempty"`
}

func failureOf(err error) failure {
	f := failure{Code: connect.CodeUnknown.String(), Message: err.Error()}
	if statement, ok := errors.AsType[*importer.StatementError](err); ok {
		f.Line = statement.Line
	}
	wire, ok := errors.AsType[*connect.Error](err)
	if !ok {
		return f
	}
	f.Code = wire.Code().String()
	if error(wire) == err { //nolint:errorlint // a wrap has more to say than the code and message of what it wraps
		f.Message = wire.Message()
	}
	for _, detail := range wire.Details() {
		msg, detailErr := detail.Value()
		if info, ok := msg.(*errdetails.ErrorInfo); detailErr == nil && ok && info.GetDomain() == rpcerr.Domain {
			f.Reason, f.Metadata = info.GetReason(), info.GetMetadata()
		}
	}
	return f
}

// shownError is one whose JSON has been written.
type shownError struct{ error }

func (e shownError) Unwrap() error { return e.error }

// report shows what ended the program: on standard error always, and on standard output for a program that waits there for
// JSON.
func (app *App) report(err error, failed bool) {
	if _, shown := errors.AsType[shownError](err); app.JSON && failed && !shown {
		app.showFailure(failureOf(err)) //nolint:errcheck // the message below is all that is left to do
	}
	app.printf(app.Stderr, "nearside: %v\n", err)
	if failureOf(err).Reason == datav1.ErrorReason_ERROR_REASON_UNAUTHENTICATED.String()[len("ERROR_REASON_"):] {
		app.printf(app.Stderr, "Say who you are with --dir DIR, the folder of the mesh or its primary, or with --token or NEARSIDE_TOKEN.\n")
	}
}

// showFailure writes a failure as a line of JSON.
func (app *App) showFailure(f failure) error { return app.WriteJSON(map[string]failure{"error": f}) }

// WriteJSON writes v as one line.
func (app *App) WriteJSON(v any) error {
	encoder := json.NewEncoder(app.Stdout)
	encoder.SetEscapeHTML(false)
	return encoder.Encode(v)
}
