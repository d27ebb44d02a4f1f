package sqlite

import (
	"strings"
	"testing"

	"github.com/nearside-dev/nearside/internal/value"
)

func TestErrors(t *testing.T) {
	schema := `CREATE TABLE t(id INTEGER PRIMARY KEY, a UNIQUE, b NOT NULL DEFAULT 0, c CHECK (c > 0), d REFERENCES t(id)) STRICT`
	schema = strings.NewReplacer("a UNIQUE", "a ANY UNIQUE", "b NOT", "b ANY NOT", "c CHECK", "c INT CHECK", "d REF", "d ANY REF").Replace(schema)
	long := strings.Repeat(" ", 2*scratchSize)
	tests := []struct {
		sql    string
		code   Code
		text   string
		offset int
	}{
		{"INSERT INTO t(a) VALUES(1)", CodeConstraintUnique, "UNIQUE constraint failed: t.a (SQLITE_CONSTRAINT_UNIQUE)", -1},
		{"INSERT INTO t(id) VALUES(1)", CodeConstraintPrimaryKey, "UNIQUE constraint failed: t.id (SQLITE_CONSTRAINT_PRIMARYKEY)", -1},
		{"INSERT INTO t(b) VALUES(NULL)", CodeConstraintNotNull, "NOT NULL constraint failed: t.b (SQLITE_CONSTRAINT_NOTNULL)", -1},
		{"INSERT INTO t(c) VALUES(0)", CodeConstraintCheck, "CHECK constraint failed: c > 0 (SQLITE_CONSTRAINT_CHECK)", -1},
		{"INSERT INTO t(c) VALUES('x')", CodeConstraintDataType, "cannot store TEXT value in INT column t.c (SQLITE_CONSTRAINT_DATATYPE)", -1},
		{"INSERT INTO t(d) VALUES(99)", CodeConstraintForeignKey, "FOREIGN KEY constraint failed (SQLITE_CONSTRAINT_FOREIGNKEY)", -1},
		{"SELEKT 1", CodeError, `near "SELEKT": syntax error (SQLITE_ERROR)`, 0},
		{"SELECT 1; SELECT x FROM t", CodeError, "no such column: x (SQLITE_ERROR)", 17},
		{long + "SELECT 1;" + long + "SELECT x", CodeError, "no such column: x (SQLITE_ERROR)", 4*scratchSize + 16},
		{"SELECT * FROM nope", CodeError, "no such table: nope (SQLITE_ERROR)", -1},
		{"SELECT 1; SELECT\x00", CodeError, "SQL text contains a NUL byte (SQLITE_ERROR)", 16},
		{"ROLLBACK", CodeError, "cannot rollback - no transaction is active (SQLITE_ERROR)", -1},
		{"SELECT abs(-9223372036854775808)", CodeError, "integer overflow (SQLITE_ERROR)", -1},
		{"SELECT zeroblob(2000000000)", CodeTooBig, "string or blob too big (SQLITE_TOOBIG)", -1},
		{"INSERT INTO t(id) VALUES('x')", CodeMismatch, "datatype mismatch (SQLITE_MISMATCH)", -1},
	}
	c := open(t, schema+"; INSERT INTO t(id, a) VALUES(1, 1)")
	if err := c.EnableForeignKeys(true); err != nil {
		t.Fatal(err)
	}
	for _, tt := range tests {
		e := wantError(t, c.Exec(tt.sql), tt.code)
		if e.Error() != tt.text || e.Offset != tt.offset {
			t.Errorf("%s: got %q at %d, want %q at %d", strings.TrimSpace(tt.sql), e, e.Offset, tt.text, tt.offset)
		}
	}
	if n := queryInt(t, c, "SELECT count(*) FROM t"); n != 1 {
		t.Errorf("%d rows", n)
	}
}

// An error that SQLite does not record must not be given the message of an earlier one.
func TestErrorIsNotStale(t *testing.T) {
	c := open(t, "")
	if err := c.Exec("SELEKT"); err == nil {
		t.Fatal("no error")
	}
	e := c.failure(int32(CodeMisuse))
	if want := "bad parameter or other API misuse (SQLITE_MISUSE)"; e.Error() != want {
		t.Errorf("got %q, want %q", e, want)
	}
	e = wantError(t, prepare(t, c, "SELECT ?").BindValue(2, value.Null()), CodeRange)
	if !strings.HasSuffix(e.Error(), "(SQLITE_RANGE)") {
		t.Errorf("got %q", e)
	}
}

func TestCodeNames(t *testing.T) {
	for code, name := range codeNames {
		primary := codeNames[code.Primary()]
		if primary == "" || !strings.HasPrefix(name, primary) {
			t.Errorf("%d %s has primary %q", int32(code), name, primary)
		}
		if code.Name() != name || code.String() != name {
			t.Errorf("%d is %s, want %s", int32(code), code.Name(), name)
		}
	}
	for code, want := range map[Code]string{CodeBusy | 77<<8: "SQLITE_BUSY", 99: "SQLITE_UNKNOWN", CodeConstraintRowID: "SQLITE_CONSTRAINT_ROWID"} {
		if got := code.Name(); got != want {
			t.Errorf("%d is %s, want %s", int32(code), got, want)
		}
	}
}
