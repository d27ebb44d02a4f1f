package engine

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/internal/rpcerr"
	"github.com/nearside-dev/nearside/internal/value"
	"github.com/nearside-dev/nearside/services/data/changelog"
)

func TestMain(m *testing.M) {
	if os.Getenv(crashEnv) != "" {
		crashChild()
		os.Exit(0)
	}
	goleak.VerifyTestMain(m)
}

const testID = 100

// fixture is a database with a log of its own.
type fixture struct {
	t   *testing.T
	dir string
	log *changelog.Log
	db  *DB

	maxMemory int64        // Config.MaxMemory when it is opened the next time
	failpoint func(string) // Config.Failpoint then
}

func newFixture(t *testing.T) *fixture {
	t.Helper()
	f := &fixture{t: t, dir: t.TempDir()}
	f.open()
	t.Cleanup(func() { f.close() })
	return f
}

func (f *fixture) open() {
	f.t.Helper()
	var err error
	f.log, err = changelog.Open(filepath.Join(f.dir, "log"), changelog.Options{FS: vfs.Default, Logger: quiet()})
	if err != nil {
		f.t.Fatal(err)
	}
	if f.db, err = f.openDB(); err != nil {
		f.t.Fatal(err)
	}
}

func (f *fixture) openDB() (*DB, error) {
	return Open(Config{
		ID: testID, Path: f.path(), Log: f.log, Logger: quiet(), Metrics: NewMetrics(prometheus.NewRegistry()),
		MaxMemory: f.maxMemory, Failpoint: f.failpoint,
	})
}

func (f *fixture) path() string { return filepath.Join(f.dir, "db", "test.sqlite") }

func (f *fixture) close() {
	f.t.Helper()
	if err := errors.Join(f.db.Close(), f.log.Close()); err != nil {
		f.t.Error(err)
	}
}

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

func (f *fixture) exec(sql string, params ...value.Value) *Commit {
	f.t.Helper()
	c, err := f.try(sql, params...)
	if err != nil {
		f.t.Fatalf("%s: %v", sql, err)
	}
	return c
}

func (f *fixture) try(sql string, params ...value.Value) (*Commit, error) {
	return f.db.Transact(context.Background(), &Transaction{Operations: []Operation{SQL(sql, params...)}})
}

type rowsSink struct{ rows []string }

func (s *rowsSink) Columns([]*datav1.Column) error { return nil }

func (s *rowsSink) Row(row *datav1.Row, _ int) error {
	var parts []string
	for _, v := range row.GetValues() {
		parts = append(parts, show(value.FromProto(v)))
	}
	s.rows = append(s.rows, strings.Join(parts, "|"))
	return nil
}

func show(v value.Value) string {
	switch v.Kind() {
	case value.KindNull:
		return "NULL"
	case value.KindInteger:
		return fmt.Sprint(v.Integer())
	case value.KindReal:
		return fmt.Sprintf("%g", v.Real())
	default:
		return v.Text()
	}
}

func (f *fixture) query(sql string) []string {
	f.t.Helper()
	var sink rowsSink
	err := f.db.View(context.Background(), func(v *View) error {
		_, err := v.Query(&datav1.Statement{Sql: sql}, &sink)
		return err
	})
	if err != nil {
		f.t.Fatalf("%s: %v", sql, err)
	}
	return sink.rows
}

func (f *fixture) want(sql string, rows ...string) {
	f.t.Helper()
	if diff := cmp.Diff(rows, f.query(sql)); diff != "" {
		f.t.Errorf("%s (-want +got):\n%s", sql, diff)
	}
}

func wantReason(t *testing.T, err error, want rpcerr.Reason) {
	t.Helper()
	if got := rpcerr.ReasonOf(err); got != want {
		t.Errorf("error %v has reason %v, want %v", err, got, want)
	}
}

// removeFile reopens the database after deleting its SQLite file.
func (f *fixture) removeFile() {
	f.t.Helper()
	if err := errors.Join(f.db.Close(), RemoveFiles(f.path())); err != nil {
		f.t.Fatal(err)
	}
	var err error
	if f.db, err = f.openDB(); err != nil {
		f.t.Fatal(err)
	}
}
