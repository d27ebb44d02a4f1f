package sqlite

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/nearside-dev/nearside/internal/value"
)

const endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n) "

func TestProgressInterruptsSavepoint(t *testing.T) {
	c := open(t, "CREATE TABLE t(a); BEGIN; INSERT INTO t VALUES(1); SAVEPOINT s")
	calls := 0
	c.SetProgress(100, func() bool { calls++; return calls == 3 })
	wantError(t, c.Exec("INSERT INTO t "+endless+"SELECT i FROM n"), CodeInterrupt)
	if calls != 3 {
		t.Errorf("%d calls", calls)
	}
	// SQLite gives up the whole transaction, not just the savepoint.
	if !c.Autocommit() {
		t.Error("the transaction is still open")
	}
	c.SetProgress(0, nil)
	wantError(t, c.Exec("RELEASE s"), CodeError)
	if n := queryInt(t, c, "SELECT count(*) FROM t"); n != 0 {
		t.Errorf("%d rows are left", n)
	}
	if calls != 3 {
		t.Error("called after being cleared")
	}
}

func TestInterruptedReadKeepsTransaction(t *testing.T) {
	c := open(t, "CREATE TABLE t(a); BEGIN; INSERT INTO t VALUES(1); SAVEPOINT s")
	c.SetProgress(100, func() bool { return true })
	wantError(t, c.Exec(endless+"SELECT count(*) FROM n"), CodeInterrupt)
	c.SetProgress(100, nil)
	if c.Autocommit() {
		t.Error("the transaction is gone")
	}
	exec(t, c, "RELEASE s; COMMIT")
}

func TestInterrupt(t *testing.T) {
	c := open(t, "")
	started, asked := make(chan struct{}), false
	c.SetProgress(100, func() bool {
		if !asked {
			asked = true
			close(started)
		}
		return false
	})
	done := make(chan struct{})
	go func() {
		defer close(done)
		<-started
		c.Interrupt()
	}()
	wantError(t, c.Exec(endless+"SELECT count(*) FROM n"), CodeInterrupt)
	<-done
	exec(t, c, "SELECT 1") // the interrupt does not stick
}

func TestAuthorizer(t *testing.T) {
	c := open(t, "CREATE TABLE t(a, b); INSERT INTO t VALUES(1, 2); CREATE VIEW v AS SELECT a FROM t")
	prepared := prepare(t, c, "SELECT b FROM t")
	var asked []string
	answer := func(Action, string, string) Auth { return AuthOK }
	c.SetAuthorizer(func(action Action, arg1, arg2, db, trigger string) Auth {
		asked = append(asked, fmt.Sprintf("%d %q %q %q %q", action, arg1, arg2, db, trigger))
		return answer(action, arg1, arg2)
	})
	prepare(t, c, "SELECT a FROM v")
	diff(t, asked, []string{
		fmt.Sprintf(`%d "" "" "" ""`, ActionSelect),
		fmt.Sprintf(`%d "t" "a" "main" "v"`, ActionRead),
		fmt.Sprintf(`%d "v" "a" "main" ""`, ActionRead),
		fmt.Sprintf(`%d "" "" "" "v"`, ActionSelect),
	})

	answer = func(action Action, table, column string) Auth {
		switch {
		case action == ActionRead && column == "b":
			return AuthIgnore
		case action == ActionCreateTable && table == "odd":
			return 77
		case action == ActionDropTable || action == ActionPragma || action == ActionAttach || action == ActionTransaction:
			return AuthDeny
		default:
			return AuthOK
		}
	}
	for _, sql := range []string{"DROP TABLE t", "PRAGMA user_version", "ATTACH ':memory:' AS x", "BEGIN"} {
		e := wantError(t, c.Exec(sql), CodeAuth)
		if !strings.HasPrefix(e.Message, "not authorized") {
			t.Errorf("%s: %v", sql, e)
		}
	}
	wantError(t, c.Exec("CREATE TABLE odd(a)"), CodeError)
	diff(t, query(t, c, "SELECT a, b FROM t"), [][]value.Value{{value.Integer(1), value.Null()}})
	if row, err := prepared.Step(); !row || !prepared.Column(0).IsNull() {
		t.Errorf("a statement prepared before was not authorized anew: %v, %v", prepared.Column(0), err)
	}
	c.SetAuthorizer(nil)
	if err := prepared.Finalize(); err != nil {
		t.Fatal(err)
	}
	exec(t, c, "PRAGMA user_version; DROP TABLE t")
}

func TestCallbackPanics(t *testing.T) {
	errBoom := errors.New("boom")
	boom := func() { panic(errBoom) }
	tests := map[string]struct {
		set   func(c *Conn)
		unset func(c *Conn)
		sql   string
	}{
		"authorizer": {
			func(c *Conn) {
				c.SetAuthorizer(func(Action, string, string, string, string) Auth { boom(); return AuthOK })
			},
			func(c *Conn) { c.SetAuthorizer(nil) },
			"INSERT INTO t VALUES(1), (2)",
		},
		"progress": {
			func(c *Conn) { c.SetProgress(5, func() bool { boom(); return false }) },
			func(c *Conn) { c.SetProgress(0, nil) },
			"INSERT INTO t VALUES(1), (2)",
		},
		"pre-update": {
			func(c *Conn) {
				if err := c.SetPreUpdate(func(*PreUpdate) { boom() }); err != nil {
					t.Fatal(err)
				}
			},
			func(c *Conn) {
				if err := c.SetPreUpdate(nil); err != nil {
					t.Fatal(err)
				}
			},
			"INSERT INTO t VALUES(1), (2)",
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			c := open(t, "CREATE TABLE t(a)")
			tt.set(c)
			func() {
				defer func() {
					p, ok := recover().(*CallbackPanic)
					if !ok || !errors.Is(p, errBoom) || !strings.Contains(p.Error(), "hook_test.go") {
						t.Errorf("recovered %v", p)
					}
				}()
				err := c.Exec(tt.sql)
				t.Errorf("no panic: %v", err)
			}()
			tt.unset(c)
			if c.change.c != nil {
				t.Error("the pre-update row is still usable")
			}
			if c.stmts != nil {
				t.Error("a statement is left")
			}
			if n := queryInt(t, c, "SELECT count(*) FROM t"); n > 1 {
				t.Errorf("the statement went on: %d rows", n)
			}
			exec(t, c, "DELETE FROM t; INSERT INTO t VALUES(1), (2)") // as good as new
		})
	}
}
