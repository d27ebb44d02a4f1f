package telemetry

import (
	"bytes"
	"encoding/json"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/nearside-dev/nearside/internal/requestid"
)

func TestNewLogger(t *testing.T) {
	var b bytes.Buffer
	ctx := requestid.With(t.Context(), requestid.Of("mine", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01").New())
	logger := NewLogger(&b, slog.LevelWarn, true).With(slog.String("role", "test"))
	logger.InfoContext(ctx, "left out")
	logger.WarnContext(ctx, "kept", slog.Int("n", 1))
	var record struct {
		Time  time.Time
		Msg   string
		N     int
		Role  string
		ID    string `json:"request_id"`
		Trace string `json:"trace_id"`
	}
	if err := json.Unmarshal(b.Bytes(), &record); err != nil {
		t.Fatalf("%v: %q", err, b.Bytes())
	}
	if record.Msg != "kept" || record.N != 1 || record.Role != "test" || record.Time.Location() != time.UTC || record.ID != "mine" ||
		record.Trace != "0af7651916cd43dd8448eb211c80319c" {
		t.Errorf("%+v", record)
	}
	b.Reset()
	NewLogger(&b, slog.LevelWarn, false).Warn("of no request")
	if text := b.String(); !strings.Contains(text, `msg="of no request"`) || strings.Contains(text, "request_id") {
		t.Errorf("%q", text)
	}
}

func TestNewRegistry(t *testing.T) {
	families, err := NewRegistry().Gather()
	if err != nil {
		t.Fatal(err)
	}
	names := map[string]bool{}
	for _, f := range families {
		names[f.GetName()] = true
	}
	for _, want := range []string{"nearside_build_info", "go_goroutines", "process_open_fds"} {
		if !names[want] {
			t.Errorf("no metric %s", want)
		}
	}
}
