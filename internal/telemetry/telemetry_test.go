package telemetry

import (
	"encoding/json"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"
)

func TestNewLogger(t *testing.T) {
	f, err := os.Create(filepath.Join(t.TempDir(), "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	logger := NewLogger(f, slog.LevelWarn)
	logger.Info("left out")
	logger.Warn("kept", slog.Int("n", 1))
	b, err := os.ReadFile(f.Name())
	if err != nil {
		t.Fatal(err)
	}
	var record struct {
		Time time.Time
		Msg  string
		N    int
	}
	if err := json.Unmarshal(b, &record); err != nil {
		t.Fatalf("%v: %q", err, b)
	}
	if record.Msg != "kept" || record.N != 1 || record.Time.Location() != time.UTC {
		t.Errorf("%+v", record)
	}
}

func TestParseLevel(t *testing.T) {
	if level, err := ParseLevel("Debug"); err != nil || level != slog.LevelDebug {
		t.Errorf("%v, %v", level, err)
	}
	if _, err := ParseLevel("loud"); err == nil {
		t.Error("loud is a level")
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
