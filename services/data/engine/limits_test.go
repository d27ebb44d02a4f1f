package engine

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"

	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/internal/rpcerr"
	"github.com/nearside-dev/nearside/internal/sqlite"
	"github.com/nearside-dev/nearside/internal/value"
)

// countSink takes rows and keeps none.
type countSink struct{ rows int }

func (*countSink) Columns([]*datav1.Column) error { return nil }

func (s *countSink) Row(*datav1.Row, int) error {
	s.rows++
	return nil
}

// both runs a statement that reads at the writer and at a reader, and gives each so much time.
func (f *fixture) both(patience time.Duration, sql string, params ...value.Value) map[string]error {
	ctx, cancel := context.WithTimeout(f.t.Context(), patience)
	defer cancel()
	_, write := f.db.Transact(ctx, &Transaction{Operations: []Operation{SQL(sql, params...)}})
	ctx, cancel = context.WithTimeout(f.t.Context(), patience)
	defer cancel()
	read := f.db.View(ctx, func(v *View) error {
		_, err := v.Query(&datav1.Statement{Sql: sql, Parameters: value.ToProtos(params)}, &countSink{})
		return err
	})
	return map[string]error{"writer": write, "reader": read}
}

func (f *fixture) isWell() {
	f.t.Helper()
	f.exec("INSERT INTO alive DEFAULT VALUES")
	f.query("SELECT count(*) FROM alive")
}

// testPatience is how long a statement may take that is not about time.
const testPatience = time.Minute

func newLimitsFixture(t *testing.T) *fixture {
	t.Helper()
	f := newFixture(t)
	f.exec("CREATE TABLE alive (id INTEGER PRIMARY KEY)")
	f.exec("CREATE TABLE t (id INTEGER PRIMARY KEY, a)")
	return f
}

func TestStatementLimits(t *testing.T) {
	f := newLimitsFixture(t)
	const (
		invalid = datav1.ErrorReason_ERROR_REASON_STATEMENT_INVALID
		field   = datav1.ErrorReason_ERROR_REASON_FIELD_INVALID
		row     = datav1.ErrorReason_ERROR_REASON_ROW_TOO_LARGE
		none    = datav1.ErrorReason_ERROR_REASON_UNSPECIFIED
	)
	many := func(n int) []value.Value { return make([]value.Value, n) }
	list := func(n int) string { return "SELECT 1 IN (?" + strings.Repeat(",?", n-1) + ")" }
	for _, tt := range []struct {
		name   string
		sql    string
		params []value.Value
		want   rpcerr.Reason
	}{
		{"longest text", "SELECT 1 -- " + strings.Repeat("x", MaxStatementBytes-13), nil, none},
		{"text too long", "SELECT '" + strings.Repeat("x", MaxStatementBytes) + "'", nil, invalid},
		{"most parameters", list(MaxParameters), many(MaxParameters), none},
		{"too many parameters", list(MaxParameters + 1), many(MaxParameters + 1), invalid},
		{"parameter number", "SELECT ?32767", many(MaxParameters + 1), invalid},
		{"more parameters than asked for", "SELECT ?", many(2), field},
		{"largest value", fmt.Sprintf("SELECT length(zeroblob(%d))", MaxRowBytes), nil, none},
		{"value too large", fmt.Sprintf("SELECT length(zeroblob(%d))", MaxRowBytes+1), nil, row},
		{"parameter too large", "SELECT length(?)", []value.Value{value.Blob(make([]byte, MaxRowBytes+1))}, row},
		{"randomblob", "SELECT length(randomblob(1000000000))", nil, row},
		{"printf width", "SELECT length(printf('%1000000000d', 1))", nil, row},
		{"printf repetition", "SELECT length(printf('%.*c', 1000000000, 'x'))", nil, row},
		{"group_concat", "WITH n(i) AS (VALUES (1) UNION ALL SELECT i+1 FROM n WHERE i < 100) " +
			"SELECT length(group_concat(hex(zeroblob(100000)))) FROM n", nil, row},
		{"LIKE pattern", "SELECT 'a' LIKE '" + strings.Repeat("%a", maxPattern) + "'", nil, invalid},
		{"GLOB pattern", "SELECT 'a' GLOB '" + strings.Repeat("*a", maxPattern) + "'", nil, invalid},
		{"depth of expressions", "SELECT " + strings.Repeat("(", 5000) + "1" + strings.Repeat(")", 5000), nil, invalid},
		{"depth of operators", "SELECT " + strings.Repeat("-", 1) + strings.Repeat("~", 5000) + "1", nil, invalid},
		{"terms of a compound", "SELECT 1" + strings.Repeat(" UNION ALL SELECT 1", 600), nil, invalid},
		{"columns", "SELECT 1" + strings.Repeat(",1", 2500), nil, invalid},
		{"arguments", "SELECT max(1" + strings.Repeat(",1", 1500) + ")", nil, invalid},
		{"joins", "SELECT 1 FROM t" + strings.Repeat(", t", 80), nil, invalid},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for where, err := range f.both(testPatience, tt.sql, tt.params...) {
				if got := rpcerr.ReasonOf(err); got != tt.want || (err != nil) != (tt.want != none) {
					t.Errorf("%s: %.200v has reason %v, want %v", where, err, got, tt.want)
				}
			}
			f.isWell()
		})
	}
	_, err := f.try(fmt.Sprintf("INSERT INTO t (a) VALUES (1), (zeroblob(%d))", MaxRowBytes))
	wantReason(t, err, row)
	_, err = f.try("INSERT INTO t SELECT NULL, randomblob(5000000) || randomblob(5000000)")
	wantReason(t, err, row)
	f.exec("CREATE TABLE wide (a, b)")
	_, err = f.try("INSERT INTO wide VALUES (zeroblob(5000000), zeroblob(5000000))")
	wantReason(t, err, row)
	f.want("SELECT count(*) FROM t", "0")
	f.exec(fmt.Sprintf("INSERT INTO t (a) VALUES (zeroblob(%d))", MaxRowBytes-100))
}

// What runs on and on ends with its caller's time, at the writer too, and takes nobody with it.
func TestRunawayStatements(t *testing.T) {
	f := newLimitsFixture(t)
	f.exec("WITH n(i) AS (VALUES (1) UNION ALL SELECT i+1 FROM n WHERE i < 300) INSERT INTO t SELECT i, i FROM n")
	for name, sql := range map[string]string{
		"recursion": "WITH n(i) AS (VALUES (1) UNION ALL SELECT i+1 FROM n) SELECT count(*) FROM n",
		"join":      "SELECT count(*) FROM t a, t b, t c, t d, t e WHERE a.a + b.a + c.a + d.a = e.a + 7.5",
		"subquery":  "SELECT (SELECT count(*) FROM t b, t c, t d, t e WHERE b.a + a.a > c.a * d.a * e.a) FROM t a",
		"rows":      "WITH n(i) AS (VALUES (1) UNION ALL SELECT i+1 FROM n) SELECT NULL FROM n WHERE i < 0",
	} {
		t.Run(name, func(t *testing.T) {
			for where, err := range f.both(200*time.Millisecond, sql) {
				wantReason(t, err, datav1.ErrorReason_ERROR_REASON_STATEMENT_INTERRUPTED)
				if connect.CodeOf(err) == connect.CodeCanceled {
					t.Errorf("%s: %v: nobody cancelled it", where, err)
				}
			}
			f.isWell()
		})
	}
}

// What wants more memory than there is ends with a typed error; the databases, which share it, go on.
func TestMemoryLimit(t *testing.T) {
	const limit = 16 << 20
	if err := LimitMemory(limit); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := LimitMemory(0); err != nil {
			t.Error(err)
		}
	})
	f := newLimitsFixture(t)
	if err := f.db.Close(); err != nil {
		t.Fatal(err)
	}
	f.maxMemory = limit
	var err error
	if f.db, err = f.openDB(); err != nil {
		t.Fatal(err)
	}
	const n = "WITH n(i) AS (VALUES (1) UNION ALL SELECT i+1 FROM n WHERE i < 20000) "
	for name, sql := range map[string]string{
		"columns":      "SELECT randomblob(8000000)" + strings.Repeat(", randomblob(8000000)", 20),
		"sort":         n + "SELECT i, hex(randomblob(1000)) b FROM n ORDER BY b",
		"distinct":     n + "SELECT count(DISTINCT hex(randomblob(1000))) FROM n",
		"materialised": n + ", m AS MATERIALIZED (SELECT randomblob(1000) b FROM n) SELECT count(*) FROM m a, m b WHERE a.b = b.b",
	} {
		t.Run(name, func(t *testing.T) {
			for where, err := range f.both(testPatience, sql) {
				e, ok := rpcerr.FromError(err)
				if !ok || e.Reason() != datav1.ErrorReason_ERROR_REASON_MEMORY_LIMIT || e.RetryAfter() == 0 {
					t.Errorf("%s: %v", where, err)
				}
			}
			if used := sqlite.MemoryUsed(); used > limit {
				t.Errorf("SQLite has %d bytes", used)
			}
			f.isWell()
		})
	}
	// A transaction that has come far fails whole, and alone.
	_, err = f.db.Transact(t.Context(), &Transaction{Operations: []Operation{
		SQL("INSERT INTO t (a) VALUES ('undone')"), SQL(n + "INSERT INTO t (a) SELECT hex(randomblob(1000)) b FROM n ORDER BY b"),
	}})
	wantReason(t, err, datav1.ErrorReason_ERROR_REASON_MEMORY_LIMIT)
	f.want("SELECT count(*) FROM t", "0")
	f.isWell()
}

// Many open databases have their page caches within the limit together.
func TestCachesShareTheMemory(t *testing.T) {
	const databases, soft = 12, 4 << 20
	fill := func() (most int64) {
		for i := range databases {
			f := newLimitsFixture(t)
			f.exec("WITH n(i) AS (VALUES (1) UNION ALL SELECT i+1 FROM n WHERE i < 2000) INSERT INTO t SELECT i, zeroblob(1000) FROM n")
			f.want("SELECT count(*) FROM t WHERE length(a) = 1000", "2000")
			if i == databases-1 {
				most = sqlite.MemoryUsed()
			}
		}
		return most
	}
	free := fill()
	if err := sqlite.LimitMemory(sqlite.MemoryUsed()+soft, 0); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := sqlite.LimitMemory(0, 0); err != nil {
			t.Error(err)
		}
	})
	limited := fill() - free
	if free < 4*soft || limited > 2*soft {
		t.Errorf("caches have %d bytes without a limit, %d with one of %d", free, limited, soft)
	}
}
