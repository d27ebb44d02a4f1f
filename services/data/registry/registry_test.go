package registry

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/internal/rpcerr"
	"github.com/nearside-dev/nearside/internal/value"
	"github.com/nearside-dev/nearside/services/data/changelog"
	"github.com/nearside-dev/nearside/services/data/engine"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fixture is a registry with a log of its own.
type fixture struct {
	*Registry

	t      testing.TB
	dir    string
	max    int
	log    *changelog.Log
	closed bool
}

func newFixture(t testing.TB, maxOpen int) *fixture {
	t.Helper()
	f := &fixture{t: t, dir: t.TempDir(), max: maxOpen}
	f.open()
	t.Cleanup(f.close)
	return f
}

func (f *fixture) open() {
	f.t.Helper()
	quiet := slog.New(slog.DiscardHandler)
	var err error
	if f.log, err = changelog.Open(filepath.Join(f.dir, "log"), changelog.Options{FS: vfs.Default, Logger: quiet}); err != nil {
		f.t.Fatal(err)
	}
	f.Registry, err = Open(f.t.Context(), Config{
		Dir: filepath.Join(f.dir, "db"), Log: f.log, Logger: quiet, Metrics: engine.NewMetrics(prometheus.NewRegistry()),
		MaxOpen: f.max,
	})
	if err != nil {
		f.t.Fatal(err)
	}
	f.closed = false
}

func (f *fixture) close() {
	f.t.Helper()
	if f.closed {
		return
	}
	f.closed = true
	if err := errors.Join(f.Registry.Close(), f.log.Close()); err != nil {
		f.t.Error(err)
	}
}

func (f *fixture) reopen() {
	f.close()
	f.open()
}

// make creates databases named d0, d1, … with a table t of one row, and returns them.
func (f *fixture) make(n int) []*Database {
	f.t.Helper()
	all := make([]*Database, n)
	for i := range all {
		d, _, err := f.Create(f.t.Context(), fmt.Sprint("d", i), nil)
		if err != nil {
			f.t.Fatal(err)
		}
		run(f.t, d, "CREATE TABLE t (id INTEGER PRIMARY KEY, n INTEGER NOT NULL)")
		run(f.t, d, "INSERT INTO t VALUES (1, 0)")
		all[i] = d
	}
	return all
}

func (f *fixture) find(name string) *Database {
	f.t.Helper()
	d, err := f.Database(name)
	if err != nil {
		f.t.Fatal(err)
	}
	return d
}

// openCount says how many databases are open, when none is being opened or closed.
func (f *fixture) openCount() int {
	f.pool.mu.Lock()
	defer f.pool.mu.Unlock()
	return len(f.pool.held)
}

func transact(ctx context.Context, d *Database, sql string) error {
	_, err := d.Transact(ctx, &engine.Transaction{Operations: []engine.Operation{engine.SQL(sql)}})
	return err
}

func run(t testing.TB, d *Database, sql string) {
	t.Helper()
	if err := transact(t.Context(), d, sql); err != nil {
		t.Fatal(err)
	}
}

func number(ctx context.Context, d *Database) (n int64, err error) {
	err = d.View(ctx, func(v *engine.View) error {
		_, err := v.Query(&datav1.Statement{Sql: "SELECT n FROM t"}, sink(func(vs []value.Value) { n = vs[0].Integer() }))
		return err
	})
	return n, err
}

func wantReason(t *testing.T, err error, want datav1.ErrorReason) {
	t.Helper()
	if rpcerr.ReasonOf(err) != want {
		t.Errorf("got %v, want %v", err, want)
	}
}

func TestStartOpensNothing(t *testing.T) {
	f := newFixture(t, 3)
	f.make(10)
	if got := f.openCount(); got != 3 {
		t.Errorf("%d open, want as many as may be", got)
	}
	f.reopen()
	if got := f.openCount(); got != 0 {
		t.Errorf("%d open at the start", got)
	}
	for _, d := range f.Databases() {
		if h, ok := f.log.Published(d.ID()); !ok || h.Version != 2 || h.Epoch != 1 {
			t.Errorf("%s is published at %+v, %v", d.Name, h, ok)
		}
	}
	if n, err := number(t.Context(), f.find("d7")); n != 0 || err != nil {
		t.Errorf("got %d, %v", n, err)
	}
	if got := f.openCount(); got != 1 {
		t.Errorf("%d open after one read", got)
	}
}

func TestPublishedBeforeTheFirstCommit(t *testing.T) {
	f := newFixture(t, 1)
	d, _, err := f.Create(t.Context(), "empty", nil)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		want := changelog.Head{Epoch: 1}
		if h, ok := f.log.Published(d.ID()); !ok || h != want {
			t.Errorf("published %+v, %v", h, ok)
		}
		f.reopen()
	}
}

// TestReplayAtFirstUse loses a database's file: the log has all of it.
func TestReplayAtFirstUse(t *testing.T) {
	f := newFixture(t, 2)
	d := f.make(1)[0]
	run(t, d, "UPDATE t SET n = 42")
	f.close()
	if err := engine.RemoveFiles(f.path(d.ID())); err != nil {
		t.Fatal(err)
	}
	f.open()
	if n, err := number(t.Context(), f.find("d0")); n != 42 || err != nil {
		t.Errorf("got %d, %v", n, err)
	}
}

// TestFileAheadIsRefused has a file with a commit that the log lacks. It shows at the first use and stays.
func TestFileAheadIsRefused(t *testing.T) {
	f := newFixture(t, 2)
	d := f.make(2)[0]
	f.close()
	older, err := os.ReadFile(f.path(d.ID()))
	if err != nil {
		t.Fatal(err)
	}
	f.open()
	run(t, f.find("d0"), "UPDATE t SET n = 1")
	f.close()
	newer, err := os.ReadFile(f.path(d.ID()))
	if err != nil {
		t.Fatal(err)
	}
	// The log as it was, by making the database again under the older file.
	f2 := newFixture(t, 2)
	f2.make(2)
	f2.close()
	for name, content := range map[string][]byte{"ahead": newer, "fork": older} {
		t.Run(name, func(t *testing.T) {
			if err := os.WriteFile(f2.path(d.ID()), content, 0o600); err != nil {
				t.Fatal(err)
			}
			f2.open()
			defer f2.close()
			broken := f2.find("d0")
			for range 2 {
				_, err := number(t.Context(), broken)
				wantReason(t, err, datav1.ErrorReason_ERROR_REASON_STORE_FAILED)
				wantReason(t, transact(t.Context(), broken, "UPDATE t SET n = 5"), datav1.ErrorReason_ERROR_REASON_STORE_FAILED)
			}
			if _, ok := f2.log.Published(d.ID()); ok {
				t.Error("its log is still published")
			}
			if n, err := number(t.Context(), f2.find("d1")); n != 0 || err != nil {
				t.Errorf("its neighbour: %d, %v", n, err)
			}
		})
	}
	f2.open()
	defer f2.close()
	if _, err := f2.Delete(t.Context(), "d0"); err != nil {
		t.Errorf("delete: %v", err)
	}
}

// TestBusyPlaces holds the only place: others wait for it, until they cannot.
func TestBusyPlaces(t *testing.T) {
	f := newFixture(t, 1)
	all := f.make(2)
	err := all[0].View(t.Context(), func(*engine.View) error {
		if _, err := number(t.Context(), all[0]); err != nil {
			return fmt.Errorf("a second user: %w", err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		_, err := number(ctx, all[1])
		wantReason(t, err, datav1.ErrorReason_ERROR_REASON_OVERLOADED)
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	if _, err := number(t.Context(), all[1]); err != nil {
		t.Error(err)
	}
	if f.pool.waiting.Len() != 0 {
		t.Error("somebody still waits")
	}
}

func TestTrim(t *testing.T) {
	f := newFixture(t, 4)
	all := f.make(3)
	err := all[0].View(t.Context(), func(*engine.View) error {
		f.pool.trim(time.Now().Add(time.Hour), time.Now().Add(time.Hour))
		return nil
	})
	if err != nil {
		t.Errorf("closed while it was used: %v", err)
	}
	for _, d := range all[1:] {
		f.pool.mu.Lock()
		f.pool.drain(d) // the closing that trim began
		f.pool.mu.Unlock()
	}
	if got := f.openCount(); got != 1 {
		t.Errorf("%d open", got)
	}
	f.pool.trim(time.Now().Add(-time.Hour), time.Now().Add(-time.Hour))
	if got := f.openCount(); got != 1 {
		t.Errorf("%d open: a fresh one was closed", got)
	}
	if n, err := number(t.Context(), all[2]); n != 0 || err != nil {
		t.Errorf("got %d, %v", n, err)
	}
}

func TestDeletedHandle(t *testing.T) {
	f := newFixture(t, 2)
	d := f.make(1)[0]
	if _, err := f.Delete(t.Context(), "d0"); err != nil {
		t.Fatal(err)
	}
	_, err := number(t.Context(), d)
	wantReason(t, err, datav1.ErrorReason_ERROR_REASON_DATABASE_NOT_FOUND)
	files, err := filepath.Glob(f.path(d.ID()) + "*")
	if err != nil || len(files) != 0 {
		t.Errorf("left: %v, %v", files, err)
	}
	if _, ok := f.log.Published(d.ID()); ok || f.Exists(d.ID()) {
		t.Error("its log is still there")
	}
}

// TestOrphans starts after a crash between the commit that deletes a row and the removal of the data.
func TestOrphans(t *testing.T) {
	f := newFixture(t, 2)
	all := f.make(3)
	if err := transact(t.Context(), f.mesh2(), "DELETE FROM databases WHERE name <> 'd2'"); err != nil {
		t.Fatal(err)
	}
	f.close()
	if err := engine.RemoveFiles(f.path(all[1].ID())); err != nil {
		t.Fatal(err)
	}
	f.open()
	last, err := f.log.LastRecords()
	if err != nil {
		t.Fatal(err)
	}
	for i, d := range all {
		_, logged := last[d.ID()]
		_, err := os.Stat(f.path(d.ID()))
		if want := i == 2; logged != want || (err == nil) != want {
			t.Errorf("%s: log %v, file %v", d.Name, logged, err)
		}
	}
}

func (f *fixture) mesh2() *Database { return f.find("_mesh") }

// TestHammer uses 50 databases from many goroutines with 4 places: reads, writes, migrations, trims, expiry of keys and
// deletes meet each other. Nothing that was answered may be lost, and never are more open than may be.
func TestHammer(t *testing.T) {
	const databases, workers, maxOpen = 50, 16, 4
	rounds := 60
	if testing.Short() {
		rounds = 10
	}
	f := newFixture(t, maxOpen)
	all := f.make(databases)
	var written [databases]atomic.Int64
	var deleted [databases]atomic.Bool
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(uint64(w), 1))
			for range rounds {
				i := r.IntN(databases)
				d := all[i]
				var err error
				switch k := r.IntN(20); {
				case k == 0 && i%5 == 0:
					deleted[i].Store(true)
					_, err = f.Delete(t.Context(), d.Name)
				case k == 1:
					now := time.Now()
					f.pool.trim(now, now)
				case k == 2:
					err = f.ExpireKeys(time.Now())
				case k == 3:
					unlock := d.LockMigrations()
					_, err = f.log.Migrations(d.ID())
					err = errors.Join(err, transact(t.Context(), d, "CREATE TABLE IF NOT EXISTS m (x)"))
					unlock()
				case k == 4: // a caller that goes away
					ctx, cancel := context.WithCancel(t.Context())
					time.AfterFunc(time.Duration(r.IntN(1000))*time.Microsecond, cancel)
					_, _ = number(ctx, d)
					cancel()
				case k < 12:
					if err = transact(t.Context(), d, "UPDATE t SET n = n + 1"); err == nil {
						written[i].Add(1)
					}
				default:
					before := written[i].Load()
					var n int64
					if n, err = number(t.Context(), d); err == nil && n < before {
						t.Errorf("%s: read %d after %d were written", d.Name, n, before)
					}
				}
				f.pool.mu.Lock()
				if held := len(f.pool.held); held > maxOpen {
					t.Errorf("%d open", held)
				}
				f.pool.mu.Unlock()
				if err != nil && !deleted[i].Load() {
					t.Errorf("%s: %v", d.Name, err)
				}
			}
		})
	}
	wg.Wait()
	f.reopen()
	got, want := make(map[string]int64), make(map[string]int64)
	for i, d := range all {
		if !deleted[i].Load() {
			want[d.Name] = written[i].Load()
			n, err := number(t.Context(), f.find(d.Name))
			if err != nil {
				t.Error(err)
			}
			got[d.Name] = n
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("rows (-written +there):\n%s", diff)
	}
	if len(f.Databases()) != len(want) {
		t.Errorf("%d databases, want %d", len(f.Databases()), len(want))
	}
}

func TestCloseWithUsers(t *testing.T) {
	f := newFixture(t, 2)
	d := f.make(1)[0]
	running, end := make(chan struct{}), make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		err := d.View(t.Context(), func(*engine.View) error {
			close(running)
			<-end
			return nil
		})
		if err != nil {
			t.Error(err)
		}
	})
	<-running
	wg.Go(f.close)
	close(end)
	wg.Wait()
	_, err := number(t.Context(), d)
	wantReason(t, err, datav1.ErrorReason_ERROR_REASON_STORE_FAILED)
}
