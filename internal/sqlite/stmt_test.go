package sqlite

import (
	"bytes"
	"errors"
	"math"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/nearside-dev/nearside/internal/value"
)

func bigBlob() value.Value {
	b := make([]byte, 8<<20)
	for i := range b {
		b[i] = byte(i * 31)
	}
	return value.Blob(b)
}

func TestValueRoundTrip(t *testing.T) {
	values := map[string]value.Value{
		"null":             value.Null(),
		"zero":             value.Integer(0),
		"smallest integer": value.Integer(math.MinInt64),
		"largest integer":  value.Integer(math.MaxInt64),
		"real":             value.Real(1),
		"negative zero":    value.Real(math.Copysign(0, -1)),
		"denormal":         value.Real(math.SmallestNonzeroFloat64),
		"largest real":     value.Real(math.MaxFloat64),
		"infinity":         value.Real(math.Inf(1)),
		"minus infinity":   value.Real(math.Inf(-1)),
		"empty text":       value.Text(""),
		"empty text, nil":  value.TextBytes(nil),
		"empty blob":       value.Blob([]byte{}),
		"empty blob, nil":  value.Blob(nil),
		"text":             value.Text("žluťoučký 🐎"),
		"NUL in text":      value.Text("a\x00b\x00"),
		"invalid UTF-8":    value.TextBytes([]byte("\xff\xc0\x80\xed\xa0\x80a\xe2")),
		"blob":             value.Blob([]byte{0, 255, 0}),
		"scratch minus 1":  value.Text(strings.Repeat("x", scratchSize-1)),
		"scratch":          value.Text(strings.Repeat("y", scratchSize)),
		"scratch plus 1":   value.Blob([]byte(strings.Repeat("z", scratchSize+1))),
		"8 MiB":            bigBlob(),
	}
	c := open(t, "CREATE TABLE t(id INTEGER PRIMARY KEY, a)")
	insert := prepare(t, c, "INSERT INTO t VALUES(?1, ?2)")
	direct := prepare(t, c, "SELECT ?1, typeof(?1)")
	stored := prepare(t, c, "SELECT a, typeof(a) FROM t WHERE id = ?1")
	var seen value.Value
	var seenErr error
	if err := c.SetPreUpdate(func(u *PreUpdate) { seen, seenErr = u.New(1) }); err != nil {
		t.Fatal(err)
	}
	id := value.Integer(0)
	for name, v := range values {
		t.Run(name, func(t *testing.T) {
			id = value.Integer(id.Integer() + 1)
			bind(t, insert, id, v)
			if _, err := insert.Step(); err != nil {
				t.Fatal(err)
			}
			if err := insert.Reset(); err != nil {
				t.Fatal(err)
			}
			if seenErr != nil || !value.Equal(seen, v) {
				t.Errorf("the hook saw a different value of kind %s, error %v", seen.Kind(), seenErr)
			}
			for s, arg := range map[*Stmt]value.Value{direct: v, stored: id} {
				bind(t, s, arg)
				if row, err := s.Step(); !row {
					t.Fatal(err)
				}
				got := s.Column(0)
				if !value.Equal(got, v) {
					t.Errorf("%s: got a different value of kind %s", s.SQL(), got.Kind())
				}
				if got, want := s.Column(1).Text(), v.Kind().String(); got != want {
					t.Errorf("%s: typeof is %s, want %s", s.SQL(), got, want)
				}
				if k := s.ColumnKind(0); k != v.Kind() {
					t.Errorf("%s: kind %s, want %s", s.SQL(), k, v.Kind())
				}
				if b := s.AppendColumnBytes([]byte("+"), 0); !bytes.Equal(b, append([]byte("+"), v.Bytes()...)) {
					t.Errorf("%s: appended %d bytes", s.SQL(), len(b)-1)
				}
				if k := got.Kind(); (k == value.KindText || k == value.KindBlob) && got.Bytes() == nil {
					t.Errorf("%s: nil bytes", s.SQL())
				}
				if err := s.Reset(); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

// The bytes given to BindValue are the caller's again when it returns, and those from Column never change.
func TestBytesAreCopied(t *testing.T) {
	c := open(t, "")
	s := prepare(t, c, "SELECT ?1")
	for _, n := range []int{10, 2 * scratchSize} {
		b := bytes.Repeat([]byte("a"), n)
		bind(t, s, value.Blob(b))
		clear(b)
		if row, err := s.Step(); !row {
			t.Fatal(err)
		}
		got := s.Column(0)
		if err := s.Reset(); err != nil {
			t.Fatal(err)
		}
		bind(t, s, value.Blob(bytes.Repeat([]byte("b"), n)))
		if want := bytes.Repeat([]byte("a"), n); !bytes.Equal(got.Bytes(), want) {
			t.Errorf("%d bytes: got %q...", n, got.Bytes()[:10])
		}
	}
}

func TestUTF16Database(t *testing.T) {
	c := open(t, "PRAGMA encoding='UTF-16'; CREATE TABLE t(a)")
	want := value.Text("žluťoučký 🐎")
	query(t, c, "INSERT INTO t VALUES(?1)", want)
	s := prepare(t, c, "SELECT a FROM t")
	if row, err := s.Step(); !row {
		t.Fatal(err)
	}
	if got := s.AppendColumnBytes(nil, 0); string(got) != want.Text() {
		t.Errorf("got %q", got)
	}
	diff(t, s.Column(0), want)
}

func TestPrepareTail(t *testing.T) {
	long := strings.Repeat(" ", 2*scratchSize)
	tests := []struct {
		sql, first, tail string
	}{
		{"", "", ""},
		{" \n\t", "", ""},
		{";;; ;", "", ""},
		{"-- comment", "", ""},
		{"/* comment", "", ""},
		{" /* a */ ; -- b\n;", "", ""},
		{"SELECT 1", "SELECT 1", ""},
		{"SELECT 1;", "SELECT 1;", ""},
		{"SELECT 1; \n", "SELECT 1;", " \n"},
		{"; ; SELECT ';' ; SELECT 2", "; ; SELECT ';' ;", " SELECT 2"},
		{"SELECT 'é\xff' -- x\n; \xff", "SELECT 'é\xff' -- x\n;", " \xff"},
		{"SELECT 1" + long + ";" + long, "SELECT 1" + long + ";", long},
	}
	c := open(t, "")
	for _, tt := range tests {
		s, tail, err := c.Prepare(tt.sql)
		if err != nil {
			t.Errorf("%q: %v", tt.sql, err)
			continue
		}
		var first string
		if s != nil {
			first = s.SQL()
		}
		if first != tt.first || tail != tt.tail {
			t.Errorf("%q: got %q and tail %q", tt.sql, first, tail)
		}
	}
}

func FuzzPrepare(f *testing.F) {
	for _, s := range []string{"", "SELECT 1; SELECT 2", "/* */;-- \n;SELECT ':a', :a;", "SELECT \x00", "CREATE TABLE t(\"a\");", "\xff"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, sql string) {
		c := open(t, "CREATE TABLE t(a, b)")
		for rest := sql; ; {
			s, tail, err := c.Prepare(rest)
			if err != nil {
				if e, ok := errors.AsType[*Error](err); !ok {
					t.Errorf("%q: %v", rest, err)
				} else if e.Offset < -1 || e.Offset > len(rest) || e.Message == "" {
					t.Errorf("%q: offset %d, message %q", rest, e.Offset, e.Message)
				}
				return
			}
			if s == nil {
				if tail != "" {
					t.Errorf("%q: no statement but tail %q", rest, tail)
				}
				return
			}
			if s.SQL()+tail != rest || s.SQL() == "" {
				t.Fatalf("%q: got %q and tail %q", rest, s.SQL(), tail)
			}
			for i := 1; i <= min(s.ParamCount(), 100); i++ {
				if name := s.ParamName(i); name != "" && s.ParamIndex(name) != i {
					t.Errorf("%q: parameter %q", rest, name)
				}
			}
			rest = tail
		}
	})
}

func TestParameters(t *testing.T) {
	c := open(t, "")
	s := prepare(t, c, "SELECT ?, :name, @at, $dollar, ?7, :name")
	var names []string
	for i := 0; i <= s.ParamCount()+1; i++ {
		names = append(names, s.ParamName(i))
	}
	if d := cmp.Diff([]string{"", "", ":name", "@at", "$dollar", "", "", "?7", ""}, names); d != "" {
		t.Error(d)
	}
	for name, want := range map[string]int{":name": 2, "name": 0, "?7": 7, "": 0, "@at\x00": 0} {
		if got := s.ParamIndex(name); got != want {
			t.Errorf("index of %q is %d, want %d", name, got, want)
		}
	}
	for _, i := range []int{-1, 0, 8, math.MaxInt, 1<<32 + 1} {
		wantError(t, s.BindValue(i, value.Integer(1)), CodeRange)
	}
	bind(t, s, value.Text("a"), value.Text("b"))
	if row, err := s.Step(); !row {
		t.Fatal(err)
	}
	wantError(t, s.BindValue(1, value.Integer(1)), CodeMisuse)
	if got := s.Column(5).Text(); got != "b" {
		t.Errorf("got %q", got)
	}
	if err := s.Reset(); err != nil {
		t.Fatal(err)
	}
	s.ClearBindings()
	if row, err := s.Step(); !row || !s.Column(0).IsNull() {
		t.Errorf("after ClearBindings: %v, %v", s.Column(0), err)
	}
}

func TestColumns(t *testing.T) {
	c := open(t, "CREATE TABLE t(id INTEGER PRIMARY KEY, a VARCHAR(3)); INSERT INTO t VALUES(1, '12x')")
	s := prepare(t, c, "SELECT id, a AS \"é\", a || '' FROM t")
	if s.ColumnCount() != 3 || s.ColumnName(0) != "id" || s.ColumnName(1) != "é" || s.ColumnName(3) != "" || s.ColumnName(-1) != "" {
		t.Error("column names are wrong")
	}
	if s.ColumnDeclType(0) != "INTEGER" || s.ColumnDeclType(1) != "VARCHAR(3)" || s.ColumnDeclType(2) != "" || s.ColumnDeclType(9) != "" {
		t.Error("declared types are wrong")
	}
	if !s.Column(0).IsNull() {
		t.Error("a value before Step")
	}
	if row, err := s.Step(); !row {
		t.Fatal(err)
	}
	if got := s.ColumnInt64(1); got != 12 {
		t.Errorf("text as integer is %d", got)
	}
	diff(t, s.Column(1), value.Text("12x"))
	diff(t, s.Column(3), value.Null())
	diff(t, s.Column(-1), value.Null())
	exec(t, c, "ALTER TABLE t ADD COLUMN b") // while the statement runs
	if row, err := s.Step(); row || err != nil {
		t.Fatalf("%v, %v", row, err)
	}
	star := prepare(t, c, "SELECT * FROM t")
	exec(t, c, "ALTER TABLE t ADD COLUMN c")
	if row, err := star.Step(); !row || star.ColumnCount() != 4 {
		t.Errorf("after ALTER: %d columns, %v", star.ColumnCount(), err)
	}
}

func TestColumnMetadata(t *testing.T) {
	c := open(t, "CREATE TABLE t(id INTEGER PRIMARY KEY AUTOINCREMENT, a TEXT COLLATE NOCASE, b)")
	for column, want := range map[string]ColumnMetadata{
		"id": {Collation: "BINARY", Autoincrement: true},
		"a":  {Collation: "NOCASE"},
		"b":  {Collation: "BINARY"},
	} {
		got, err := c.ColumnMetadata("t", column)
		if err != nil || got != want {
			t.Errorf("%s: got %+v, %v, want %+v", column, got, err, want)
		}
	}
	_, err := c.ColumnMetadata("t", "c")
	wantError(t, err, CodeError)
}

func TestStepStates(t *testing.T) {
	c := open(t, "CREATE TABLE t(a UNIQUE)")
	s := prepare(t, c, "INSERT INTO t VALUES(1)")
	for range 2 {
		if row, err := s.Step(); row || err != nil {
			t.Fatalf("%v, %v", row, err)
		}
	}
	if n := queryInt(t, c, "SELECT count(*) FROM t"); n != 1 {
		t.Errorf("two steps inserted %d rows", n)
	}
	if err := s.Reset(); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		_, err := s.Step()
		wantError(t, err, CodeConstraintUnique)
	}
	if err := s.Reset(); err != nil {
		t.Errorf("Reset repeats the error: %v", err)
	}
	_, err := s.Step()
	wantError(t, err, CodeConstraintUnique)
	if err := s.Finalize(); err != nil {
		t.Errorf("Finalize repeats the error: %v", err)
	}

	// The commit finds the violation, and ending the statement is the commit.
	exec(t, c, "CREATE TABLE p(id INTEGER PRIMARY KEY); CREATE TABLE k(p REFERENCES p DEFERRABLE INITIALLY DEFERRED)")
	if err := c.EnableForeignKeys(true); err != nil {
		t.Fatal(err)
	}
	for _, end := range []func(*Stmt) error{(*Stmt).Reset, (*Stmt).Finalize} {
		s = prepare(t, c, "INSERT INTO k VALUES(1), (2) RETURNING p")
		if row, err := s.Step(); !row {
			t.Fatal(err)
		}
		wantError(t, end(s), CodeConstraintForeignKey)
	}
}

func TestStatementFacts(t *testing.T) {
	c := open(t, "CREATE TABLE t(id INTEGER PRIMARY KEY, a); WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n LIMIT 100) INSERT INTO t SELECT i, i FROM n")
	for _, tt := range []struct {
		sql      string
		readOnly bool
		explain  int
	}{
		{"SELECT * FROM t", true, 0},
		{"BEGIN", true, 0},
		{"DELETE FROM t", false, 0},
		{"EXPLAIN DELETE FROM t", false, 1},
		{"EXPLAIN QUERY PLAN SELECT * FROM t", true, 2},
	} {
		s := prepare(t, c, tt.sql)
		if s.ReadOnly() != tt.readOnly || s.IsExplain() != tt.explain {
			t.Errorf("%s: read-only %v, explain %d", tt.sql, s.ReadOnly(), s.IsExplain())
		}
	}

	s := prepare(t, c, "SELECT id FROM t WHERE a > ?1")
	run := func(above int64) {
		t.Helper()
		bind(t, s, value.Integer(above))
		for {
			row, err := s.Step()
			if err != nil {
				t.Fatal(err)
			}
			if row != s.Busy() {
				t.Errorf("row %v, busy %v", row, s.Busy())
			}
			if !row {
				break
			}
		}
		if err := s.Reset(); err != nil {
			t.Fatal(err)
		}
	}
	run(98)
	if got := s.RowsRead(); got < 99 || got > 100 {
		t.Errorf("full scan of 100 rows read %d", got)
	}
	if got := s.RowsRead(); got != 0 {
		t.Errorf("then %d", got)
	}
	exec(t, c, "CREATE INDEX i ON t(a)")
	run(90)
	if got := s.RowsRead(); got != 10 {
		t.Errorf("range of 10 rows read %d", got)
	}
	if got := s.StmtStatus(StatusRun, true); got != 2 {
		t.Errorf("%d runs", got)
	}
	if s.StmtStatus(StatusRun, false) != 0 || s.StmtStatus(StatusReprepare, false) != 1 || s.StmtStatus(StatusMemUsed, false) == 0 {
		t.Error("status is wrong")
	}
	for _, op := range []StatusOp{-1, 0, 9, 98, 100} {
		if got := s.StmtStatus(op, true); got != 0 {
			t.Errorf("unknown status %d is %d", op, got)
		}
	}
}
