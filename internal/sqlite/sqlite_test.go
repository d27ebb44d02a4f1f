package sqlite

import (
	"errors"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/nearside-dev/nearside/internal/value"
)

// open returns a connection to an in-memory database on which sql was run. The test fails if closing it does.
func open(t testing.TB, sql string) *Conn {
	t.Helper()
	return openFile(t, ":memory:", sql)
}

func openFile(t testing.TB, path, sql string) *Conn {
	t.Helper()
	c, err := Open(path, ReadWrite|Create)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	exec(t, c, sql)
	return c
}

func tempFile(t testing.TB) string { return filepath.Join(t.TempDir(), "test.db") }

func exec(t testing.TB, c *Conn, sql string) {
	t.Helper()
	if err := c.Exec(sql); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

func prepare(t testing.TB, c *Conn, sql string) *Stmt {
	t.Helper()
	s, tail, err := c.Prepare(sql)
	if err != nil || s == nil || tail != "" {
		t.Fatalf("prepare %q: statement %v, tail %q, error %v", sql, s != nil, tail, err)
	}
	return s
}

func bind(t testing.TB, s *Stmt, args ...value.Value) {
	t.Helper()
	for i, v := range args {
		if err := s.BindValue(i+1, v); err != nil {
			t.Fatalf("bind parameter %d of %q: %v", i+1, s.SQL(), err)
		}
	}
}

// query returns the rows of a statement.
func query(t testing.TB, c *Conn, sql string, args ...value.Value) [][]value.Value {
	t.Helper()
	s := prepare(t, c, sql)
	bind(t, s, args...)
	var rows [][]value.Value
	for {
		row, err := s.Step()
		if err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
		if !row {
			break
		}
		var r []value.Value
		for i := range s.ColumnCount() {
			r = append(r, s.Column(i))
		}
		rows = append(rows, r)
	}
	if err := s.Finalize(); err != nil {
		t.Fatalf("finalize %q: %v", sql, err)
	}
	return rows
}

// queryInt returns the only value of a query.
func queryInt(t testing.TB, c *Conn, sql string) int64 {
	t.Helper()
	rows := query(t, c, sql)
	if len(rows) != 1 || len(rows[0]) != 1 {
		t.Fatalf("%s: got %d rows", sql, len(rows))
	}
	return rows[0][0].Integer()
}

// wantError fails unless err is an Error of that extended code.
func wantError(t testing.TB, err error, code Code) *Error {
	t.Helper()
	var e *Error
	if !errors.As(err, &e) || e.Extended != code {
		t.Fatalf("got error %v, want %s", err, code)
	}
	if e.Code != code.Primary() {
		t.Fatalf("%v: primary code %s, want %s", err, e.Code, code.Primary())
	}
	return e
}

func diff(t testing.TB, got, want any) {
	t.Helper()
	if d := cmp.Diff(want, got, cmp.Comparer(value.Equal)); d != "" {
		t.Errorf("difference (-want +got):\n%s", d)
	}
}
