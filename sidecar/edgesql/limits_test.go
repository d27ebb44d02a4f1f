package edgesql

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/internal/rpcerr"
	"github.com/nearside-dev/nearside/internal/sqlite"
	"github.com/nearside-dev/nearside/internal/sqlrun"
	"github.com/nearside-dev/nearside/internal/value"
	"github.com/nearside-dev/nearside/sidecar/replica/replicatest"
)

// What is above a limit of the primary's is refused with its reason, or left to it.
func TestLimits(t *testing.T) {
	r := newRegion(t, Options{})
	r.commit(replicatest.Schema(accounts()), account(1, 5))
	const (
		none    = datav1.ErrorReason_ERROR_REASON_UNSPECIFIED
		row     = datav1.ErrorReason_ERROR_REASON_ROW_TOO_LARGE
		invalid = datav1.ErrorReason_ERROR_REASON_STATEMENT_INVALID
	)
	for _, tt := range []struct {
		name, sql string
		want      rpcerr.Reason
		left      bool // to the primary
	}{
		{"longest text", "SELECT 1 -- " + strings.Repeat("x", sqlrun.MaxStatementBytes-13), none, false},
		{"text too long", "SELECT '" + strings.Repeat("x", sqlrun.MaxStatementBytes) + "'", none, true},
		{"too many parameters", fmt.Sprintf("SELECT ?%d", sqlrun.MaxParameters+1), none, true},
		{"largest value", fmt.Sprintf("SELECT length(zeroblob(%d))", sqlrun.MaxRowBytes), none, false},
		{"value too large", fmt.Sprintf("SELECT length(zeroblob(%d))", sqlrun.MaxRowBytes+1), row, false},
		{"row too large for a sorter", "SELECT zeroblob(5000000) || id, zeroblob(5000000) FROM accounts ORDER BY 1, random()", row, false},
		{"LIKE pattern", "SELECT 'a' LIKE '" + strings.Repeat("%a", sqlrun.MaxPattern) + "'", invalid, false},
		{"GLOB pattern", "SELECT 'a' GLOB '" + strings.Repeat("*a", sqlrun.MaxPattern) + "'", invalid, false},
		{"terms of a compound", "SELECT 1" + strings.Repeat(" UNION ALL SELECT 1", 600), none, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := r.query(t.Context(), tt.sql)
			_, left := errors.AsType[*UnsupportedError](err)
			if got := rpcerr.ReasonOf(err); left != tt.left || got != tt.want || (err != nil) != (left || tt.want != none) {
				t.Errorf("%.200v has reason %v, want %v; left to the primary: %t", err, got, tt.want, left)
			}
			// What is no statement, or more than one, is told so here.
			for _, sql := range []string{
				"", " ;", "-- SELECT 1", "SELEC 1", "(SELECT 1)", "\u017fELECT 1", "SELECT 1; SELECT 2", "SELECT 1; (SELECT 2)", "SELECT 1; VACUUM",
			} {
				_, err := r.query(t.Context(), sql)
				if got := rpcerr.ReasonOf(err); got != datav1.ErrorReason_ERROR_REASON_STATEMENT_INVALID {
					t.Errorf("%s: %v has reason %v", sql, err, got)
				}
			}
			if got, err := r.query(t.Context(), "SELECT money FROM accounts"); err != nil || got != "5" {
				t.Errorf("afterwards: %q, %v", got, err)
			}
		})
	}
}

// What wants more memory than there is ends with a typed error, and others go on.
func TestMemoryLimit(t *testing.T) {
	r := newRegion(t, Options{MaxMemory: sqlite.MemoryUsed() + 64<<20})
	r.commit(replicatest.Schema(accounts()), replicatest.Put(accounts(), replicatest.Row(1, value.Integer(5))))
	_, err := r.query(t.Context(), "WITH n(i) AS (VALUES (1) UNION ALL SELECT i+1 FROM n WHERE i < 1000000) "+
		"SELECT count(*) FROM (SELECT DISTINCT hex(zeroblob(500)) || i FROM n)")
	if got := rpcerr.ReasonOf(err); got != datav1.ErrorReason_ERROR_REASON_MEMORY_LIMIT {
		t.Errorf("%v has reason %v", err, got)
	}
	if got, err := r.query(t.Context(), "SELECT money FROM accounts"); err != nil || got != "5" {
		t.Errorf("afterwards: %q, %v", got, err)
	}
}

// A statement that takes too many steps is stopped, whatever its time, and others go on.
func TestStepLimit(t *testing.T) {
	const limit = 1_000_000
	r := newRegion(t, Options{MaxSteps: limit})
	r.commit(replicatest.Schema(accounts()), account(1, 5))
	const count = "WITH RECURSIVE s(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM s LIMIT %d) SELECT count(*) FROM s"
	if got, err := r.query(t.Context(), fmt.Sprintf(count, 1000)); err != nil || got != "1000" {
		t.Errorf("a short one: %q, %v", got, err)
	}
	for range 2 {
		_, err := r.query(t.Context(), fmt.Sprintf(count, limit))
		if got := rpcerr.ReasonOf(err); got != datav1.ErrorReason_ERROR_REASON_STATEMENT_INTERRUPTED || !strings.Contains(fmt.Sprint(err), "1000000 steps") {
			t.Errorf("%v has reason %v", err, got)
		}
	}
	if got, err := r.query(t.Context(), "SELECT money FROM accounts"); err != nil || got != "5" {
		t.Errorf("afterwards: %q, %v", got, err)
	}
}

// A statement whose time is up is stopped in its middle.
func TestTimeLimit(t *testing.T) {
	r := newRegion(t, Options{})
	r.commit(replicatest.Schema(accounts()), account(1, 5))
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	_, err := r.query(ctx, "WITH RECURSIVE s(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM s) SELECT count(*) FROM s")
	if got := rpcerr.ReasonOf(err); got != datav1.ErrorReason_ERROR_REASON_STATEMENT_INTERRUPTED {
		t.Errorf("%v has reason %v", err, got)
	}
}

// What does not only read the database is not run here: it is left to the primary, which says what it thinks of it.
func TestReadsOnly(t *testing.T) {
	r := newRegion(t, Options{})
	r.commit(replicatest.Schema(accounts()), account(1, 5))
	for _, sql := range []string{
		"INSERT INTO accounts VALUES (2, 1)", "WITH s AS (SELECT 1) DELETE FROM accounts", "CREATE TABLE t (a)", "CREATE TEMP TABLE t (a)", "CREATE TEMP VIEW v AS SELECT 1",
		"DROP TABLE accounts", "ATTACH ':memory:' AS other", "DETACH main", "VACUUM", "VACUUM INTO 'file'", "BEGIN", "SAVEPOINT s", "ANALYZE", "REINDEX",
		"PRAGMA journal_mode = DELETE", "PRAGMA writable_schema = ON", "PRAGMA user_version = 7", "PRAGMA temp_store_directory = '/tmp'", "SELECT * FROM pragma_database_list",
		"SELECT load_extension('x')", "SELECT writefile('x', 'y')", "SELECT * FROM sqlite_dbpage", "SELECT * FROM dbstat", "SELECT * FROM sqlite_sequence", "SELECT last_insert_rowid()",
		"SELECT * FROM sqlite_schema", "PRAGMA table_info(accounts)", // of which this catalog tells nothing
		"UPDATE sqlite_schema SET sql = ''", "EXPLAIN SELECT 1",
	} {
		if _, err := r.query(t.Context(), sql); !isUnsupported(err) {
			t.Errorf("%s: %v", sql, err)
		}
	}
	if got, err := r.query(t.Context(), "SELECT money FROM accounts"); err != nil || got != "5" {
		t.Errorf("afterwards: %q, %v", got, err)
	}
}

func isUnsupported(err error) bool {
	_, ok := errors.AsType[*UnsupportedError](err)
	return ok
}
