package sqlite

import (
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nearside-dev/nearside/internal/value"
)

func TestVersion(t *testing.T) {
	c := open(t, "")
	if got := query(t, c, "SELECT sqlite_version()")[0][0].Text(); got != Version() {
		t.Errorf("sqlite_version() is %q, Version %q", got, Version())
	}
}

func TestOpen(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "a?b#c%20.db") // a name, not a URI
	_, err := Open(path, ReadWrite)
	wantError(t, err, CodeCantOpen)
	openFile(t, path, "CREATE TABLE t(a); INSERT INTO t VALUES(1)")
	if _, err := os.Stat(path); err != nil {
		t.Fatal(err)
	}

	ro, err := Open(path, ReadOnly)
	if err != nil {
		t.Fatal(err)
	}
	if n := queryInt(t, ro, "SELECT count(*) FROM t"); n != 1 {
		t.Errorf("read-only connection sees %d rows", n)
	}
	wantError(t, ro.Exec("INSERT INTO t VALUES(2)"), CodeReadOnly)
	if err := ro.Close(); err != nil {
		t.Fatal(err)
	}

	text := filepath.Join(dir, "text")
	if err := os.WriteFile(text, []byte(strings.Repeat("not a database ", 100)), 0o600); err != nil {
		t.Fatal(err)
	}
	wantError(t, openFile(t, text, "").Exec("SELECT * FROM sqlite_schema"), CodeNotADB)

	for _, flags := range []OpenFlags{0, Create, ReadOnly | Create, ReadOnly | ReadWrite, ReadWrite | 1<<20} {
		if _, err := Open(":memory:", flags); err == nil {
			t.Errorf("flags %#x: no error", int32(flags))
		}
	}
	if _, err := Open("a\x00b", ReadWrite|Create); err == nil {
		t.Error("NUL in the name: no error")
	}
	if _, err := Open(strings.Repeat("x", scratchSize), ReadWrite|Create); err == nil {
		t.Error("name too long: no error")
	}
}

func TestHardening(t *testing.T) {
	c := open(t, "CREATE TABLE t(a)")
	wantError(t, c.Exec("SELECT load_extension('x')"), CodeError)
	exec(t, c, "PRAGMA writable_schema=ON")
	wantError(t, c.Exec("DELETE FROM sqlite_schema"), CodeError)
	exec(t, c, "CREATE VIEW v AS SELECT 1")
	if n := queryInt(t, c, "PRAGMA trusted_schema"); n != 0 {
		t.Error("the schema is trusted")
	}
	if err := c.Defensive(false); err != nil {
		t.Fatal(err)
	}
	exec(t, c, "PRAGMA writable_schema=ON; DELETE FROM sqlite_schema WHERE name='v'")
	exec(t, c, `CREATE TABLE q(a DEFAULT "text"); INSERT INTO q VALUES("also text")`) // as old dumps have it
}

func TestUseAfterClose(t *testing.T) {
	c := open(t, "CREATE TABLE t(a); BEGIN; INSERT INTO t VALUES(1)")
	running := prepare(t, c, "SELECT a FROM t")
	if row, err := running.Step(); !row {
		t.Fatal(err)
	}
	idle := prepare(t, c, "SELECT ?1")
	if err := c.Close(); err != nil {
		t.Fatalf("close with statements and a transaction: %v", err)
	}
	if err := c.Close(); err != nil {
		t.Fatalf("second close: %v", err)
	}
	c.Interrupt()
	c.SetBusyTimeout(time.Second)
	c.SetProgress(1, func() bool { return true })
	c.SetAuthorizer(func(Action, string, string, string, string) Auth { return AuthDeny })
	c.SetLastInsertRowid(1)
	if !c.Autocommit() || c.Changes() != 0 || c.TotalChanges() != 0 || c.LastInsertRowid() != 0 || c.Limit(LimitLength, 1) != -1 {
		t.Error("a closed connection has state")
	}
	_, _, err := c.Prepare("SELECT 1")
	wantError(t, err, CodeMisuse)
	_, err = c.DeferredForeignKeys()
	wantError(t, err, CodeMisuse)
	_, _, err = c.WALCheckpoint(CheckpointPassive)
	wantError(t, err, CodeMisuse)
	wantError(t, c.Exec("SELECT 1"), CodeMisuse)
	wantError(t, c.EnableForeignKeys(true), CodeMisuse)
	wantError(t, c.SetPreUpdate(func(*PreUpdate) {}), CodeMisuse)
	for _, s := range []*Stmt{running, idle} {
		_, err := s.Step()
		wantError(t, err, CodeMisuse)
		wantError(t, s.Reset(), CodeMisuse)
		wantError(t, s.BindValue(1, value.Integer(1)), CodeMisuse)
		s.ClearBindings()
		if err := s.Finalize(); err != nil {
			t.Errorf("second finalize: %v", err)
		}
		if s.ParamCount() != 0 || s.ParamName(1) != "" || s.ParamIndex("?1") != 0 || s.ColumnCount() != 0 || s.ColumnName(0) != "" ||
			s.ColumnDeclType(0) != "" || s.ColumnInt64(0) != 0 || !s.Column(0).IsNull() || s.ColumnKind(0) != value.KindNull ||
			s.AppendColumnBytes(nil, 0) != nil || s.IsExplain() != 0 || s.Busy() || s.RowsRead() > 1 || s.StmtStatus(StatusMemUsed, false) != 0 {
			t.Errorf("%q: a finalized statement has state", s.SQL())
		}
	}
}

func TestRowidsAndChanges(t *testing.T) {
	c := open(t, "CREATE TABLE t(id INTEGER PRIMARY KEY, a); CREATE TABLE log(a); CREATE TRIGGER x AFTER UPDATE ON t BEGIN INSERT INTO log VALUES(new.a); END")
	exec(t, c, "INSERT INTO t VALUES(9223372036854775807, 1), (-3, 2)")
	if got := c.LastInsertRowid(); got != -3 {
		t.Errorf("last rowid %d", got)
	}
	c.SetLastInsertRowid(77)
	if got := queryInt(t, c, "SELECT last_insert_rowid()"); got != 77 {
		t.Errorf("last_insert_rowid() %d", got)
	}
	before := c.TotalChanges()
	exec(t, c, "UPDATE t SET a = a + 1")
	if c.Changes() != 2 || c.TotalChanges()-before != 4 {
		t.Errorf("changes %d, total %d, want 2 and 4", c.Changes(), c.TotalChanges()-before)
	}
}

func TestDeferredForeignKeys(t *testing.T) {
	c := open(t, "CREATE TABLE p(id INTEGER PRIMARY KEY); CREATE TABLE k(p REFERENCES p DEFERRABLE INITIALLY DEFERRED)")
	violated := func() bool {
		t.Helper()
		v, err := c.DeferredForeignKeys()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	if err := c.EnableForeignKeys(true); err != nil {
		t.Fatal(err)
	}
	exec(t, c, "BEGIN; SAVEPOINT s; INSERT INTO k VALUES(1)")
	if !violated() {
		t.Error("violation not seen")
	}
	exec(t, c, "RELEASE s")
	if !violated() {
		t.Error("violation not seen after RELEASE")
	}
	wantError(t, c.Exec("COMMIT"), CodeConstraintForeignKey)
	exec(t, c, "INSERT INTO p VALUES(1)")
	if violated() {
		t.Error("violation seen though mended")
	}
	exec(t, c, "SAVEPOINT s; DELETE FROM p")
	if !violated() {
		t.Error("second violation not seen")
	}
	exec(t, c, "ROLLBACK TO s; RELEASE s")
	if violated() {
		t.Error("violation seen though rolled back")
	}
	exec(t, c, "COMMIT")
	if err := c.EnableForeignKeys(false); err != nil {
		t.Fatal(err)
	}
	exec(t, c, "INSERT INTO k VALUES(2)")
}

func TestEnableTriggers(t *testing.T) {
	c := open(t, "CREATE TABLE t(a); CREATE TRIGGER x AFTER INSERT ON t WHEN new.a < 3 BEGIN INSERT INTO t VALUES(new.a + 1); END")
	s := prepare(t, c, "INSERT INTO t VALUES(1)")
	for _, tt := range []struct {
		on   bool
		want int64
	}{{true, 2}, {false, 1}, {true, 2}} {
		if err := c.EnableTriggers(tt.on); err != nil {
			t.Fatal(err)
		}
		before := c.TotalChanges()
		if _, err := s.Step(); err != nil {
			t.Fatal(err)
		}
		if err := s.Reset(); err != nil {
			t.Fatal(err)
		}
		if got := c.TotalChanges() - before; got != tt.want {
			t.Errorf("triggers %v: %d rows inserted, want %d", tt.on, got, tt.want)
		}
	}
}

func TestWALCheckpoint(t *testing.T) {
	c := open(t, "")
	if log, done, err := c.WALCheckpoint(CheckpointTruncate); log != -1 || done != -1 || err != nil {
		t.Errorf("not WAL: %d, %d, %v", log, done, err)
	}
	path := tempFile(t)
	c = openFile(t, path, "PRAGMA journal_mode=WAL; PRAGMA wal_autocheckpoint=0; CREATE TABLE t(a); INSERT INTO t VALUES(1)")
	reader := openFile(t, path, "BEGIN; SELECT * FROM t")
	exec(t, c, "INSERT INTO t VALUES(2)")
	log, done, err := c.WALCheckpoint(CheckpointPassive)
	if err != nil || log <= done || done == 0 {
		t.Errorf("with a reader: %d frames, %d done, %v", log, done, err)
	}
	_, _, err = c.WALCheckpoint(CheckpointTruncate)
	wantError(t, err, CodeBusy)
	exec(t, reader, "COMMIT")
	if log, done, err := c.WALCheckpoint(CheckpointTruncate); log != 0 || done != 0 || err != nil {
		t.Errorf("truncate: %d, %d, %v", log, done, err)
	}
	if info, err := os.Stat(path + "-wal"); err != nil || info.Size() != 0 {
		t.Errorf("WAL after truncate: %v, %v", info, err)
	}
}

func TestCheckpointOnClose(t *testing.T) {
	for _, on := range []bool{true, false} {
		path := tempFile(t)
		c := openFile(t, path, "PRAGMA journal_mode=WAL; CREATE TABLE t(a)")
		if err := c.CheckpointOnClose(on); err != nil {
			t.Fatal(err)
		}
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(path + "-wal"); os.IsNotExist(err) != on {
			t.Errorf("checkpoint %v: WAL: %v", on, err)
		}
	}
}

func TestBusy(t *testing.T) {
	path := tempFile(t)
	a := openFile(t, path, "PRAGMA journal_mode=WAL; CREATE TABLE t(a); BEGIN IMMEDIATE")
	b := openFile(t, path, "")
	wantError(t, b.Exec("BEGIN IMMEDIATE"), CodeBusy)
	b.SetBusyTimeout(time.Minute)
	done := make(chan error)
	go func() { done <- b.Exec("BEGIN IMMEDIATE; COMMIT") }()
	exec(t, a, "COMMIT")
	if err := <-done; err != nil {
		t.Error(err)
	}
	exec(t, b, "BEGIN; SELECT * FROM t")
	exec(t, a, "INSERT INTO t VALUES(1)")
	wantError(t, b.Exec("INSERT INTO t VALUES(2)"), CodeBusySnapshot)
}

func TestLimit(t *testing.T) {
	c := open(t, "")
	old := c.Limit(LimitVariableNumber, 3)
	if old < 1000 {
		t.Errorf("variable limit was %d", old)
	}
	if got := c.Limit(LimitVariableNumber, -1); got != 3 {
		t.Errorf("variable limit is %d", got)
	}
	wantError(t, c.Exec("SELECT ?1, ?4"), CodeError)
	c.Limit(LimitSQLLength, 40)
	wantError(t, c.Exec("SELECT 1"+strings.Repeat(" ", 20)+"+ 2 -- "+strings.Repeat("x", 20)), CodeTooBig)
	c.Limit(LimitLength, 1000)
	s := prepare(t, c, "SELECT ?1")
	for _, v := range []value.Value{value.Blob(make([]byte, 1001)), value.Text(strings.Repeat("x", scratchSize))} {
		wantError(t, s.BindValue(1, v), CodeTooBig)
	}
	c.Limit(LimitExprDepth, 5)
	wantError(t, c.Exec("SELECT 1+1+1+1+1+1+1+1"), CodeError)
	if c.Limit(99, 1) != -1 {
		t.Error("unknown limit")
	}
}

func TestConcurrentConnections(t *testing.T) {
	path := tempFile(t)
	openFile(t, path, "PRAGMA journal_mode=WAL; CREATE TABLE t(id INTEGER PRIMARY KEY, w, a)")
	const workers, rows = 4, 100
	var seen [workers]int
	var wg sync.WaitGroup
	for w := range workers {
		c := openFile(t, path, "")
		c.SetBusyTimeout(time.Minute)
		if err := c.SetPreUpdate(func(u *PreUpdate) {
			if v, err := u.New(1); err != nil || v.Integer() != int64(w) {
				t.Errorf("worker %d saw %v, %v", w, v, err)
			}
			seen[w]++
		}); err != nil {
			t.Fatal(err)
		}
		c.SetProgress(10, func() bool { return false })
		c.SetAuthorizer(func(Action, string, string, string, string) Auth { return AuthOK })
		s := prepare(t, c, "INSERT INTO t(w, a) VALUES(?1, ?2)")
		wg.Go(func() {
			for range rows {
				if err := s.BindValue(1, value.Integer(int64(w))); err != nil {
					t.Error(err)
				}
				if err := s.BindValue(2, value.Text("some text")); err != nil {
					t.Error(err)
				}
				if _, err := s.Step(); err != nil {
					t.Error(err)
				}
				if err := s.Reset(); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	for w, n := range seen {
		if n != rows {
			t.Errorf("worker %d saw %d rows", w, n)
		}
	}
}

// churn opens and closes connections that use everything that allocates.
func churn(t *testing.T, n int) {
	t.Helper()
	path := tempFile(t)
	openFile(t, path, "PRAGMA journal_mode=WAL; CREATE TABLE t(a)")
	for range n {
		c, err := Open(path, ReadWrite)
		if err != nil {
			t.Fatal(err)
		}
		if err := c.SetPreUpdate(func(u *PreUpdate) {
			if _, err := u.New(0); err != nil {
				t.Error(err)
			}
		}); err != nil {
			t.Fatal(err)
		}
		c.SetProgress(1, func() bool { return false })
		c.SetAuthorizer(func(Action, string, string, string, string) Auth { return AuthOK })
		exec(t, c, "BEGIN")
		s := prepare(t, c, "INSERT INTO t VALUES(?1) RETURNING a") // left to Close
		bind(t, s, value.Blob(make([]byte, 2*scratchSize)))
		if _, err := s.Step(); err != nil {
			t.Fatal(err)
		}
		if err := c.Exec("SELEKT"); err == nil {
			t.Fatal("no error")
		}
		exec(t, c, "SELECT '"+strings.Repeat("x", scratchSize)+"'")
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestSlotsAreReused(t *testing.T) {
	before, next := conns.len(), conns.next
	churn(t, 1000)
	if got := conns.len() - before; got != 1 { // the connection that churn leaves to the test's cleanup
		t.Errorf("%d slots in use, want 1", got)
	}
	if got := conns.next - next; got > 2 {
		t.Errorf("1000 connections, one after another, took %d new slots", got)
	}
}
