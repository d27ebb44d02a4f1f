package engine

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
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

	maxMemory int64
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
		MaxMemory: f.maxMemory,
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

func TestCommitsAreVersionsAndSurviveReopening(t *testing.T) {
	f := newFixture(t)
	f.exec("CREATE TABLE t (id INTEGER PRIMARY KEY, a TEXT)")
	c := f.exec("INSERT INTO t (a) VALUES ('one'), ('two')")
	if c.Version != 2 || c.Results[0].GetRowsAffected() != 2 || c.Results[0].GetLastInsertRowid() != 2 {
		t.Errorf("commit: version %d, result %v", c.Version, c.Results[0])
	}
	if c := f.exec("UPDATE t SET a = a"); c.Version != 0 {
		t.Errorf("an update that changes nothing made version %d", c.Version)
	}
	f.close()
	f.open()
	f.want("SELECT * FROM t ORDER BY id", "1|one", "2|two")
	if c := f.exec("DELETE FROM t"); c.Version != 3 {
		t.Errorf("version %d, want 3", c.Version)
	}
}

// TestRebuildFromLog deletes the SQLite file: the log alone must bring everything back.
func TestRebuildFromLog(t *testing.T) {
	f := newFixture(t)
	for _, sql := range []string{
		"CREATE TABLE parent (id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL UNIQUE)",
		"CREATE TABLE child (a TEXT NOT NULL, b TEXT NOT NULL COLLATE NOCASE, v REAL, PRIMARY KEY (a, b DESC)) WITHOUT ROWID",
		"CREATE TABLE loose (x, y)",
		"CREATE TABLE keyed (k TEXT NOT NULL PRIMARY KEY, n INTEGER DEFAULT 7, g AS (n * 2), s AS (n * 3) STORED)",
		"CREATE INDEX by_v ON child (v)",
		"CREATE VIEW names AS SELECT name FROM parent",
		"CREATE TRIGGER copies AFTER INSERT ON parent BEGIN INSERT INTO loose VALUES (new.id, new.name); END",
		"INSERT INTO parent (name) VALUES ('a'), ('b'), ('c')",
		"INSERT INTO child VALUES ('x', 'Y', 1), ('x', 'z', 2.5)",
		"UPDATE child SET b = 'y' WHERE b = 'Y'",
		"INSERT INTO keyed (k) VALUES ('k1'), ('k2')",
		"INSERT OR REPLACE INTO parent (id, name) VALUES (9, 'b')",
		"DELETE FROM parent WHERE id = 9",
		"ALTER TABLE loose ADD COLUMN z DEFAULT 'new'",
		"INSERT INTO loose VALUES (1e300, x'00ff', NULL)",
		"ALTER TABLE keyed RENAME COLUMN n TO number",
		"ALTER TABLE keyed RENAME TO keys",
		"UPDATE keys SET number = 8 WHERE k = 'k2'",
		"CREATE TABLE copy AS SELECT * FROM child",
		"ALTER TABLE copy DROP COLUMN v",
		"DROP INDEX by_v",
	} {
		f.exec(sql)
	}
	queries := []string{
		"SELECT * FROM parent ORDER BY id", "SELECT * FROM child ORDER BY a, b", "SELECT rowid, * FROM loose ORDER BY rowid",
		"SELECT rowid, * FROM keys ORDER BY k", "SELECT * FROM copy ORDER BY b", "SELECT * FROM sqlite_sequence",
		"SELECT * FROM names ORDER BY 1",
		"SELECT type, name, tbl_name, sql FROM sqlite_schema WHERE name NOT LIKE '\\_nearside%' ESCAPE '\\' ORDER BY name",
	}
	before := make([][]string, len(queries))
	for i, q := range queries {
		before[i] = f.query(q)
	}
	f.removeFile()
	for i, q := range queries {
		if diff := cmp.Diff(before[i], f.query(q)); diff != "" {
			t.Errorf("%s (-before +after):\n%s", q, diff)
		}
	}
	f.want("PRAGMA integrity_check", "ok")
	if len(before[2]) != 5 || len(before[1]) != 2 {
		t.Errorf("unexpected data before: %v", before)
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

func TestPoisonInAGroupHarmsOnlyItself(t *testing.T) {
	f := newFixture(t)
	f.exec("CREATE TABLE t (id INTEGER PRIMARY KEY, a TEXT UNIQUE, p INTEGER REFERENCES t (id) DEFERRABLE INITIALLY DEFERRED)")
	f.exec("CREATE TRIGGER boom BEFORE INSERT ON t WHEN new.a = 'boom' BEGIN SELECT RAISE(ROLLBACK, 'boom'); END")
	f.exec("INSERT INTO t (id, a) VALUES (1, 'taken')")
	poisons := map[string]string{
		"deferred key": "INSERT INTO t (a, p) VALUES ('orphan', 999)",
		"or rollback":  "INSERT OR ROLLBACK INTO t (a) VALUES ('taken')",
		"raise":        "INSERT INTO t (a) VALUES ('boom')",
		"abort":        "INSERT INTO t (a) VALUES ('taken')",
	}
	for name, poison := range poisons {
		t.Run(name, func(t *testing.T) {
			const others = 40
			var wg sync.WaitGroup
			failed := make(chan error, 2*others)
			for i := range others {
				wg.Go(func() {
					if _, err := f.try("INSERT INTO t (a) VALUES (?1)", value.Text(fmt.Sprintf("%s %d", name, i))); err != nil {
						failed <- err
					}
				})
				if i%8 == 0 {
					wg.Go(func() {
						if _, err := f.try(poison); rpcerr.ReasonOf(err) != datav1.ErrorReason_ERROR_REASON_CONSTRAINT_FAILED {
							failed <- fmt.Errorf("poison: %w", err)
						}
					})
				}
			}
			wg.Wait()
			close(failed)
			for err := range failed {
				t.Error(err)
			}
			f.want("SELECT count(*) FROM t WHERE a LIKE '"+name+" %'", fmt.Sprint(others))
		})
	}
	f.want("SELECT count(*) FROM t WHERE a IN ('orphan', 'boom')", "0")
}

func TestNothingLeaksBetweenTransactions(t *testing.T) {
	f := newFixture(t)
	f.exec("CREATE TABLE t (id INTEGER PRIMARY KEY)")
	f.exec("INSERT INTO t VALUES (41), (42)")
	c := f.exec("INSERT INTO t SELECT 100 + last_insert_rowid() + changes()")
	f.want("SELECT max(id) FROM t", "100")
	if c.Results[0].GetLastInsertRowid() != 100 {
		t.Errorf("last rowid %v", c.Results[0].LastInsertRowid)
	}
	_, err := f.try("CREATE TEMP TABLE x (a)")
	wantReason(t, err, datav1.ErrorReason_ERROR_REASON_STATEMENT_DENIED)
}

func TestDeniedStatements(t *testing.T) {
	f := newFixture(t)
	f.exec("CREATE TABLE t (id INTEGER PRIMARY KEY)")
	for _, sql := range []string{
		"ATTACH 'x' AS y", "BEGIN", "COMMIT", "SAVEPOINT a", "PRAGMA journal_mode = DELETE", "PRAGMA foreign_keys = OFF",
		"SELECT * FROM _nearside_meta", "UPDATE _nearside_meta SET version = 1", "CREATE TABLE _nearside_x (a)",
		"ALTER TABLE t RENAME TO _nearside_t", "SELECT load_extension('x')", "PRAGMA writable_schema = ON",
	} {
		if _, err := f.try(sql); err == nil {
			t.Errorf("%s was allowed", sql)
		}
	}
	_, err := f.try("SELECT 1; SELECT 2")
	wantReason(t, err, datav1.ErrorReason_ERROR_REASON_STATEMENT_INVALID)
	f.exec("SELECT 1; -- nothing more")
	// A text that looks like the engine's own cache key is only a text.
	if _, err := f.try("trusted\x00COMMIT"); err == nil {
		t.Error("a NUL in the text was allowed")
	}
}

func TestIdempotencyKeys(t *testing.T) {
	f := newFixture(t)
	f.exec("CREATE TABLE t (id INTEGER PRIMARY KEY, a)")
	key := changelog.IdempotencyKey{Principal: "p", Key: "k"}
	insert := func(a string, hash byte) (*Commit, error) {
		return f.db.Transact(context.Background(), &Transaction{
			Operations: []Operation{SQL("INSERT INTO t (a) VALUES (?1) RETURNING id", value.Text(a))},
			Key:        key, RequestHash: [32]byte{hash},
		})
	}
	first, err := insert("x", 1)
	if err != nil {
		t.Fatal(err)
	}
	again, err := insert("x", 1)
	if err != nil || !again.Replayed || again.Version != first.Version ||
		again.Results[0].GetRows()[0].GetValues()[0].GetInteger() != 1 {
		t.Errorf("repeat: %+v, %v", again, err)
	}
	_, err = insert("y", 2)
	wantReason(t, err, datav1.ErrorReason_ERROR_REASON_IDEMPOTENCY_KEY_REUSED)
	f.removeFile() // keys survive with the log
	if again, err := insert("x", 1); err != nil || !again.Replayed {
		t.Errorf("repeat after rebuilding: %+v, %v", again, err)
	}
	f.want("SELECT count(*) FROM t", "1")
}

func TestConcurrentRepeatsOfOneKey(t *testing.T) {
	f := newFixture(t)
	f.exec("CREATE TABLE t (id INTEGER PRIMARY KEY, a)")
	var wg sync.WaitGroup
	for i := range 64 {
		wg.Go(func() {
			_, err := f.db.Transact(context.Background(), &Transaction{
				Operations: []Operation{SQL("INSERT INTO t (a) VALUES (1)")},
				Key:        changelog.IdempotencyKey{Key: fmt.Sprint(i % 4)},
			})
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	f.want("SELECT count(*) FROM t", "4")
}

func TestCancelledCallerHarmsOnlyItself(t *testing.T) {
	f := newFixture(t)
	f.exec("CREATE TABLE t (id INTEGER PRIMARY KEY, a)")
	ctx, cancel := context.WithCancel(context.Background())
	endless := "INSERT INTO t (a) WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT i FROM n"
	stopped := make(chan error, 1)
	go func() {
		_, err := f.db.Transact(ctx, &Transaction{Operations: []Operation{SQL("INSERT INTO t (a) VALUES ('before')"), SQL(endless)}})
		stopped <- err
	}()
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Go(func() { f.exec("INSERT INTO t (a) VALUES (?1)", value.Integer(int64(i))) })
	}
	cancel()
	wg.Wait()
	wantReason(t, <-stopped, datav1.ErrorReason_ERROR_REASON_STATEMENT_INTERRUPTED)
	f.want("SELECT count(*), sum(a = 'before') FROM t", "20|0")
}

// TestStatementsThatBecomeSchemaChanges repeats texts that did nothing when they were first compiled.
func TestStatementsThatBecomeSchemaChanges(t *testing.T) {
	f := newFixture(t)
	drop, create := "DROP TABLE IF EXISTS z", "CREATE TABLE IF NOT EXISTS z (a)"
	for range 3 {
		f.exec(drop)
		if c := f.exec(create); c.Version == 0 {
			t.Error("the table was made without a commit")
		}
		f.exec(create)
		f.exec("INSERT INTO z VALUES (1)")
		if c := f.exec(drop); c.Version == 0 {
			t.Error("the table was dropped without a commit")
		}
	}
	c, err := f.db.Transact(context.Background(), &Transaction{Operations: []Operation{
		SQL(drop), SQL(create), SQL(drop), SQL(create), SQL("INSERT INTO z VALUES (2)"),
	}})
	if err != nil || c.Version == 0 {
		t.Fatalf("%+v, %v", c, err)
	}
	f.removeFile()
	f.want("SELECT a FROM z", "2")
}

// TestLongTransactionDoesNotHoldUpItsGroup mixes a slow transaction into many short ones: all are done.
func TestLongTransactionDoesNotHoldUpItsGroup(t *testing.T) {
	f := newFixture(t)
	f.exec("CREATE TABLE t (id INTEGER PRIMARY KEY, a)")
	var wg sync.WaitGroup
	for i := range 64 {
		wg.Go(func() {
			for range 20 {
				f.exec("INSERT INTO t (a) VALUES ('short')")
			}
			if i%16 == 0 {
				f.exec("INSERT INTO t (a) WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 100000) SELECT 'long' FROM n")
			}
		})
	}
	wg.Wait()
	f.want("SELECT a, count(*) FROM t GROUP BY a ORDER BY a", "long|400000", "short|1280")
}

func TestTypedOperations(t *testing.T) {
	f := newFixture(t)
	f.exec("CREATE TABLE t (id TEXT PRIMARY KEY, a, b DEFAULT 5)")
	do := func(ops ...*datav1.Operation) (*Commit, error) {
		tx := &Transaction{}
		for _, o := range ops {
			op, err := OperationOf(o)
			if err != nil {
				t.Fatal(err)
			}
			tx.Operations = append(tx.Operations, op)
		}
		return f.db.Transact(context.Background(), tx)
	}
	text := func(s string) *datav1.Value { return value.ToProto(value.Text(s)) }
	put := func(id, a string, p *datav1.Precondition) *datav1.Operation {
		return &datav1.Operation{Operation: &datav1.Operation_Put{Put: &datav1.Put{
			Table: "t", Values: map[string]*datav1.Value{"id": text(id), "a": text(a)}, Precondition: p,
		}}}
	}
	absent := &datav1.Precondition{Condition: &datav1.Precondition_IfAbsent{IfAbsent: true}}
	exists := &datav1.Precondition{Condition: &datav1.Precondition_IfExists{IfExists: true}}
	version := func(v uint64) *datav1.Precondition {
		return &datav1.Precondition{Condition: &datav1.Precondition_IfVersion{IfVersion: v}}
	}
	c, err := do(put("x", "1", absent))
	if err != nil {
		t.Fatal(err)
	}
	f.want("SELECT * FROM t", "x|1|5")
	_, err = do(put("y", "0", nil), put("x", "2", absent))
	wantReason(t, err, datav1.ErrorReason_ERROR_REASON_PRECONDITION_FAILED)
	if e, _ := rpcerr.FromError(err); e.Metadata("operation") != "1" || e.Metadata("present_version") != fmt.Sprint(c.Version) {
		t.Errorf("metadata: %v", e)
	}
	f.want("SELECT count(*) FROM t", "1")
	if _, err = do(put("x", "2", version(c.Version))); err != nil {
		t.Error(err)
	}
	_, err = do(put("x", "3", version(c.Version)))
	wantReason(t, err, datav1.ErrorReason_ERROR_REASON_PRECONDITION_FAILED)
	key := &datav1.Key{Values: []*datav1.Value{text("x")}}
	_, err = do(&datav1.Operation{Operation: &datav1.Operation_Update{Update: &datav1.Update{
		Table: "t", Key: key, Set: map[string]*datav1.Value{"b": text("z")}, Precondition: exists,
	}}})
	if err != nil {
		t.Error(err)
	}
	f.want("SELECT * FROM t", "x|2|z")
	_, err = do(&datav1.Operation{Operation: &datav1.Operation_Delete{Delete: &datav1.Delete{Table: "t", Key: key}}})
	if err != nil {
		t.Error(err)
	}
	f.want("SELECT count(*) FROM t", "0")
	_, err = do(&datav1.Operation{Operation: &datav1.Operation_Delete{Delete: &datav1.Delete{Table: "t", Key: key, Precondition: exists}}})
	wantReason(t, err, datav1.ErrorReason_ERROR_REASON_PRECONDITION_FAILED)
}

// TestPutByEveryKindOfKey inserts a row and then overwrites it.
func TestPutByEveryKindOfKey(t *testing.T) {
	f := newFixture(t)
	for name, columns := range map[string]string{
		"rowid":             "id INTEGER PRIMARY KEY, a",
		"rowid that counts": "id INTEGER PRIMARY KEY AUTOINCREMENT, a",
		"integer":           "id INT NOT NULL PRIMARY KEY, a",
		"without collation": "id TEXT NOT NULL PRIMARY KEY, a",
		"another collation": "id TEXT COLLATE NOCASE PRIMARY KEY, a",
		"no rowid":          "a, id INTEGER PRIMARY KEY) WITHOUT ROWID --",
	} {
		t.Run(name, func(t *testing.T) {
			f.exec("CREATE TABLE k (" + columns + ")")
			defer f.exec("DROP TABLE k")
			for _, a := range []string{"first", "second"} {
				op, err := OperationOf(&datav1.Operation{Operation: &datav1.Operation_Put{Put: &datav1.Put{
					Table: "k", Values: map[string]*datav1.Value{
						"id": value.ToProto(value.Integer(7)), "a": value.ToProto(value.Text(a)),
					},
				}}})
				if err != nil {
					t.Fatal(err)
				}
				if _, err := f.db.Transact(t.Context(), &Transaction{Operations: []Operation{op}}); err != nil {
					t.Fatal(err)
				}
				f.want("SELECT id, a FROM k", "7|"+a)
			}
		})
	}
}

func BenchmarkTransact(b *testing.B) {
	for _, clients := range []int{1, 64} {
		b.Run(fmt.Sprintf("clients=%d", clients), func(b *testing.B) {
			f := &fixture{dir: b.TempDir(), t: new(testing.T)}
			f.open()
			defer f.close()
			f.exec("CREATE TABLE t (id INTEGER PRIMARY KEY, a TEXT, b TEXT)")
			b.ReportAllocs()
			b.SetParallelism(clients)
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					f.exec("INSERT INTO t (a, b) VALUES (?1, ?2)", value.Text("some text here"), value.Text(strings.Repeat("x", 150)))
				}
			})
		})
	}
}

// TestUncheckedForeignKeys fills a child before its parent, as dumps do, among transactions that are checked.
func TestUncheckedForeignKeys(t *testing.T) {
	f := newFixture(t)
	f.exec("CREATE TABLE p (id INTEGER PRIMARY KEY)")
	f.exec("CREATE TABLE c (id INTEGER PRIMARY KEY, p INTEGER NOT NULL REFERENCES p (id) ON DELETE CASCADE)")
	insert := SQL("INSERT INTO c (p) VALUES (7)")
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			_, err := f.db.Transact(context.Background(), &Transaction{Operations: []Operation{insert}})
			wantReason(t, err, datav1.ErrorReason_ERROR_REASON_CONSTRAINT_FAILED)
		})
		wg.Go(func() {
			tx := &Transaction{Operations: []Operation{insert}, UncheckedForeignKeys: true}
			if _, err := f.db.Transact(context.Background(), tx); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	f.want("SELECT count(*) FROM c", "20")
	f.want("SELECT count(*) FROM pragma_foreign_key_check", "20")
	f.exec("INSERT INTO p VALUES (7)")
	f.exec("DELETE FROM p") // its action runs: they are on again
	f.want("SELECT count(*) FROM c", "0")
}

func TestTooLargeIsRefusedWhole(t *testing.T) {
	f := newFixture(t)
	f.exec("CREATE TABLE t (id INTEGER PRIMARY KEY, a)")
	const nine = "WITH n(i) AS (VALUES (1) UNION ALL SELECT i+1 FROM n WHERE i < 9) "
	_, err := f.try(nine + "INSERT INTO t (a) SELECT zeroblob(8000000) FROM n")
	wantReason(t, err, datav1.ErrorReason_ERROR_REASON_TRANSACTION_TOO_LARGE)
	_, err = f.try(nine + "SELECT zeroblob(8000000) FROM n")
	wantReason(t, err, datav1.ErrorReason_ERROR_REASON_RESULT_TOO_LARGE)
	f.want("SELECT count(*) FROM t", "0")
}
