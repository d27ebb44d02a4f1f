package engine

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/protobuf/proto"

	replicationv1 "github.com/nearside-dev/nearside/gen/nearside/replication/v1"
	"github.com/nearside-dev/nearside/internal/value"
	"github.com/nearside-dev/nearside/services/data/changelog"
)

// Crash tests run the engine in a process of its own, which kills itself with SIGKILL at a named place of the commit path.
// The parent then opens what is left. The places are those of docs/adr/001-commit-order.md.

const crashEnv = "NEARSIDE_ENGINE_CRASH"

// crashChild writes until it is killed: place and the number of the hit come from the environment. Each acknowledged write
// is a line on stdout.
func crashChild() {
	fields := strings.Split(os.Getenv(crashEnv), ",")
	dir, place := fields[0], fields[1]
	hit, _ := strconv.ParseInt(fields[2], 10, 64)
	var hits atomic.Int64
	c := &crasher{place: place, hit: hit, hits: &hits}
	log, err := changelog.Open(filepath.Join(dir, "log"), changelog.Options{Logger: quiet()})
	if err != nil {
		fatal(err)
	}
	whole := 0
	if strings.Contains(place, "early") {
		whole = 1 // the tables made below are not in their records
	}
	db, err := Open(Config{
		ID: testID, Path: filepath.Join(dir, "db", "test.sqlite"), Log: log, WholeTableBytes: whole,
		Logger:  slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelError})),
		Metrics: NewMetrics(prometheus.NewRegistry()), Failpoint: c.at,
	})
	if err != nil {
		fatal(err)
	}
	do := func(sql string, params ...value.Value) error {
		_, err := db.Transact(context.Background(), &Transaction{Operations: []Operation{SQL(sql, params...)}})
		return err
	}
	if err := do("CREATE TABLE IF NOT EXISTS w (id INTEGER PRIMARY KEY AUTOINCREMENT, v TEXT NOT NULL UNIQUE)"); err != nil {
		fatal(err)
	}
	if strings.HasPrefix(place, "drop-") {
		dropColumn(c, db, do)
		return
	}
	c.db.Store(db)
	var out sync.Mutex
	var wg sync.WaitGroup
	for writer := range 8 {
		wg.Go(func() {
			for i := range 400 {
				v := fmt.Sprintf("%s.%s.%d.%d", place, fields[2], writer, i)
				sql := "INSERT INTO w (v) VALUES (?1)"
				if i%50 == 10 && writer == 0 {
					create := fmt.Sprintf("CREATE TABLE t_%s_%d AS SELECT random() AS r, v FROM w LIMIT 3",
						strings.NewReplacer(".", "_", "-", "_").Replace(v), i)
					err := do(create)
					if err != nil && place == "early-commit-fails" {
						err = errors.Join(do("INSERT INTO w (v) VALUES ('after the failure')"), do(create)) // it left nothing
					}
					if err != nil {
						fatal(err)
					}
				}
				if err := do(sql, value.Text(v)); err != nil {
					fatal(err)
				}
				if strings.HasSuffix(place, "trim") && writer == 1 && i%10 == 0 {
					if _, err := db.TrimLog(changelog.Retention{Age: 1, Bytes: 1 << 40}); err != nil {
						fatal(err)
					}
				}
				out.Lock()
				fmt.Println(v)
				out.Unlock()
			}
		})
	}
	wg.Wait()
	fmt.Println("end")
	if err := errors.Join(db.Close(), log.Close()); err != nil {
		fatal(err)
	}
}

// dropColumn drops a column of a table with rows from before and after it was added, to be killed in that very commit.
func dropColumn(c *crasher, db *DB, do func(string, ...value.Value) error) {
	c.place = strings.TrimPrefix(c.place, "drop-")
	for i := range 60 {
		if i == 20 {
			if err := do("ALTER TABLE w ADD COLUMN x TEXT DEFAULT 1.50"); err != nil {
				fatal(err)
			}
		}
		v := fmt.Sprintf("drop-%s.%d", c.place, i)
		if err := do("INSERT INTO w (v) VALUES (?1)", value.Text(v)); err != nil {
			fatal(err)
		}
		fmt.Println(v)
	}
	if err := do("UPDATE w SET x = 'y' WHERE id % 3 = 0"); err != nil {
		fatal(err)
	}
	c.db.Store(db)
	_, err := db.Transact(context.Background(), operations(
		"INSERT INTO w (v, x) VALUES ('before', 'z')", "ALTER TABLE w DROP COLUMN x", "INSERT INTO w (v) VALUES ('after')"))
	fatal(fmt.Errorf("not killed: %w", err))
}

func fatal(err error) {
	fmt.Fprintln(os.Stderr, err)
	os.Exit(3)
}

type crasher struct {
	place string
	hit   int64
	hits  *atomic.Int64
	db    atomic.Pointer[DB] // nil until the first table is there

	durable atomic.Uint64 // what the file had when its last checkpoint began
}

func (c *crasher) at(place string) {
	db := c.db.Load()
	if db == nil {
		return
	}
	if place == "before-checkpoint" {
		c.durable.Store(db.durable.Load())
	}
	if strings.HasSuffix(place, "-trim") && c.durable.Load() == db.durable.Load() {
		return // that checkpoint moved a part only, and a file without the WAL is whole after a whole one
	}
	if strings.HasSuffix(c.place, "commit-fails") {
		c.failCommit(place)
		return
	}
	if place == c.place && c.hits.Add(1) == c.hit {
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		select {}
	}
}

// failCommit makes SQLite's COMMIT fail once, after the log append, by letting no file grow meanwhile.
func (c *crasher) failCommit(place string) {
	signal.Ignore(syscall.SIGXFSZ)
	limit := syscall.Rlimit{Cur: ^uint64(0), Max: ^uint64(0)}
	switch {
	case c.place == "commit-fails" && place == "after-append" && c.hits.Add(1) == c.hit,
		c.place == "early-commit-fails" && place == "before-early-commit" && c.hits.Add(1) == c.hit:
		limit.Cur = 1
	case c.place == "commit-fails" && place == "after-commit", c.place == "early-commit-fails" && place == "before-append":
	default:
		return
	}
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &limit); err != nil {
		fatal(err)
	}
}

// runCrash runs the child and returns what it acknowledged.
func runCrash(t *testing.T, dir, place string, hit int) (acked []string, ended bool, logged string) {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^$")
	cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%s,%s,%d", crashEnv, dir, place, hit))
	var stderr strings.Builder
	cmd.Stderr = &stderr
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(stdout)
	for lines.Scan() {
		if line := lines.Text(); line == "end" {
			ended = true
		} else if strings.HasPrefix(line, place+".") {
			acked = append(acked, line)
		}
	}
	err = cmd.Wait()
	exit, ok := errors.AsType[*exec.ExitError](err)
	if !ended && (!ok || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL) {
		t.Fatalf("child: %v: %s", err, stderr.String())
	}
	return acked, ended, stderr.String()
}

// checkCrash opens what a crash left and checks it against what was acknowledged: nothing lost, nothing twice, and the file
// equal to what the log alone rebuilds.
func checkCrash(t *testing.T, dir string, acked []string) {
	t.Helper()
	f := &fixture{t: t, dir: dir}
	f.open()
	defer f.close()
	have := make(map[string]bool)
	for _, v := range f.query("SELECT v FROM w") {
		have[v] = true // unique by declaration
	}
	for _, v := range acked {
		if !have[v] {
			t.Errorf("acknowledged write %s is lost", v)
		}
	}
	head, err := f.log.Head(testID)
	if err != nil {
		t.Fatal(err)
	}
	stored, err := f.db.writer.storedHead()
	if err != nil {
		t.Fatal(err)
	}
	if stored != head {
		t.Errorf("file is at %+v, log at %+v", stored, head)
	}
	before := f.dump()
	f.removeFile()
	if diff := cmp.Diff(before, f.dump()); diff != "" {
		t.Errorf("file differs from what the log rebuilds (-file +log):\n%s", diff)
	}
}

// dump is everything in the database.
func (f *fixture) dump() []string {
	f.t.Helper()
	out := f.query("SELECT type, name, sql FROM sqlite_schema WHERE name NOT LIKE '\\_nearside%' ESCAPE '\\' ORDER BY name")
	tables := f.query("SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE '\\_nearside%' ESCAPE '\\'")
	sort.Strings(tables)
	for _, name := range tables {
		rowid := "rowid, "
		if name == "sqlite_sequence" || f.query("SELECT wr FROM pragma_table_list('" + name + "')")[0] == "1" {
			rowid = "" // there is none, or it means nothing
		}
		rows := f.query("SELECT '" + name + "', " + rowid + "* FROM " + quote(name))
		sort.Strings(rows)
		out = append(out, rows...)
	}
	return append(out, f.query("PRAGMA integrity_check")...)
}

func TestKillAtEveryPlace(t *testing.T) {
	for _, place := range []string{
		"before-append", "after-append", "after-commit", "before-answer", "before-checkpoint", "after-checkpoint",
	} {
		t.Run(place, func(t *testing.T) {
			dir := t.TempDir()
			var acked []string
			hits := []int{1, 7, 60}
			if strings.HasSuffix(place, "checkpoint") {
				hits = []int{1, 2}
			}
			for _, hit := range hits {
				more, ended, _ := runCrash(t, dir, place, hit)
				if ended {
					t.Errorf("hit %d was never reached", hit)
				}
				acked = append(acked, more...)
				checkCrash(t, dir, acked)
			}
		})
	}
}

// TestKillInDropColumn kills at each place of the commit that drops a column. Where the log has the record, the column is gone
// when the database is opened again.
func TestKillInDropColumn(t *testing.T) {
	for place, gone := range map[string]bool{
		"before-sums": false, "before-append": false, "after-append": true, "after-commit": true, "before-answer": true,
	} {
		t.Run(place, func(t *testing.T) {
			dir := t.TempDir()
			hit := 2 // the first time is that of the group which the transaction left, to be alone
			if place == "before-sums" {
				hit = 1
			}
			acked, _, _ := runCrash(t, dir, "drop-"+place, hit)
			if len(acked) != 60 {
				t.Fatalf("%d writes acknowledged", len(acked))
			}
			f := &fixture{t: t, dir: dir}
			f.open()
			columns, rows := "3", "60"
			if gone {
				columns, rows = "2", "62"
			}
			f.want("SELECT count(*) FROM pragma_table_info('w')", columns)
			f.want("SELECT count(*) FROM w", rows)
			f.sumsHold()
			f.exec("INSERT INTO w (v) VALUES ('more')")
			f.sumsHold()
			f.close()
			checkCrash(t, dir, acked)
		})
	}
}

// TestKillInTrim kills around a trim and then takes the file's WAL away, so that it has what was synced into it and nothing
// else: the log must still have all the rest.
func TestKillInTrim(t *testing.T) {
	for _, place := range []string{"before-trim", "after-trim"} {
		t.Run(place, func(t *testing.T) {
			dir := t.TempDir()
			var acked []string
			for _, hit := range []int{1, 3, 9} {
				more, ended, _ := runCrash(t, dir, place, hit)
				if ended {
					t.Errorf("hit %d was never reached", hit)
				}
				acked = append(acked, more...)
				for _, suffix := range []string{"-wal", "-shm"} {
					if err := os.Remove(filepath.Join(dir, "db", "test.sqlite"+suffix)); err != nil {
						t.Fatal(err)
					}
				}
				checkTrimmed(t, dir, acked)
			}
		})
	}
}

func checkTrimmed(t *testing.T, dir string, acked []string) {
	t.Helper()
	f := &fixture{t: t, dir: dir}
	f.open()
	defer f.close()
	have := make(map[string]bool)
	for _, v := range f.query("SELECT v FROM w") {
		have[v] = true
	}
	for _, v := range acked {
		if !have[v] {
			t.Errorf("acknowledged write %s is lost", v)
		}
	}
	if got := f.query("PRAGMA integrity_check"); len(got) != 1 || got[0] != "ok" {
		t.Errorf("integrity check: %v", got)
	}
	head, err := f.log.Head(testID)
	if err != nil {
		t.Fatal(err)
	}
	if stored, err := f.db.writer.storedHead(); err != nil || stored != head {
		t.Errorf("file is at %+v, log at %+v: %v", stored, head, err)
	}
}

// TestTornAppend cuts the end of the log's last file, as a power cut in the middle of an append does: the record was not
// acknowledged, and it is gone as a whole.
func TestTornAppend(t *testing.T) {
	dir := t.TempDir()
	var acked []string
	for i, cut := range []int64{1, 5, 40} {
		more, _, _ := runCrash(t, dir, "after-append", 5+i)
		acked = append(acked, more...)
		cutLog(t, filepath.Join(dir, "log"), cut)
		checkCrash(t, dir, acked)
	}
}

// cutLog cuts the written end of the newest write-ahead file of a Pebble store.
func cutLog(t *testing.T, dir string, cut int64) {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(dir, "*.log"))
	if err != nil || len(names) == 0 {
		t.Fatalf("no log files in %s: %v", dir, err)
	}
	sort.Strings(names)
	name := names[len(names)-1]
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	end := int64(len(strings.TrimRight(string(data), "\x00"))) // the file is allocated ahead
	if end <= cut {
		t.Fatalf("%s holds %d bytes", name, end)
	}
	if err := os.Truncate(name, end-cut); err != nil {
		t.Fatal(err)
	}
}

// TestFailedCommitIsReplayed lets SQLite's COMMIT fail after the append: the log has the group, so it is answered as done.
func TestFailedCommitIsReplayed(t *testing.T) {
	dir := t.TempDir()
	acked, ended, logged := runCrash(t, dir, "commit-fails", 9)
	if !ended || len(acked) != 8*400 || !strings.Contains(logged, "commit failed after the log append") {
		t.Errorf("%d writes acknowledged, ended %v, logged: %s", len(acked), ended, logged)
	}
	checkCrash(t, dir, acked)
}

// TestFileAheadOfLogIsRefused loses the log, as a restore of older log files does.
func TestFileAheadOfLogIsRefused(t *testing.T) {
	f := newFixture(t)
	f.exec("CREATE TABLE t (a)")
	if err := errors.Join(f.db.Close(), f.log.Drop(testID)); err != nil {
		t.Fatal(err)
	}
	if db, err := f.openDB(); !errors.Is(err, ErrAhead) {
		t.Errorf("opened: %v, %v", db, err)
	}
	b := f.log.NewBatch(testID)
	other := otherRecord(t, 1)
	if err := errors.Join(b.Record(1, other), b.Commit(), b.Close()); err != nil {
		t.Fatal(err)
	}
	if db, err := f.openDB(); !errors.Is(err, ErrFork) {
		t.Errorf("opened: %v, %v", db, err)
	}
}

// otherRecord returns a record of a version that no writer here made.
func otherRecord(t *testing.T, version uint64) []byte {
	t.Helper()
	record, err := proto.Marshal(&replicationv1.CommitRecord{Version: version, Epoch: 1, Actor: "another history"})
	if err != nil {
		t.Fatal(err)
	}
	return record
}
