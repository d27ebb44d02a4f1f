//go:build linux

package edgesql_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/internal/meshtest"
	"github.com/nearside-dev/nearside/internal/sqlite"
	"github.com/nearside-dev/nearside/internal/sqlrun"
	"github.com/nearside-dev/nearside/internal/value"
	"github.com/nearside-dev/nearside/sidecar/edgesql"
	"github.com/nearside-dev/nearside/sidecar/replica"
)

// benchSchema are the tables of the shapes.
var benchSchema = []string{
	"CREATE TABLE users (id INTEGER PRIMARY KEY, email TEXT, age INTEGER, bio TEXT)",
	"CREATE TABLE orders (id INTEGER PRIMARY KEY, user_id INTEGER, total REAL)",
	"CREATE UNIQUE INDEX by_email ON users (email)",
	"CREATE INDEX by_age ON users (age)",
	"CREATE INDEX by_user ON orders (user_id)",
	`WITH RECURSIVE s(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM s WHERE i < 19999) INSERT INTO users
		SELECT i, printf('user%08d@example.org', i), i * 7919 % 97, printf('%.120c', 'b') FROM s`,
	`WITH RECURSIVE s(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM s WHERE i < 19999) INSERT INTO orders
		SELECT i, i * 31 % 20000, i / 7.0 FROM s`,
}

// benchShapes are the shapes of queries; ? is a key.
var benchShapes = []struct{ name, query string }{
	{"key", "SELECT email, age FROM users WHERE id = ?1"},
	{"unique", "SELECT id, age FROM users WHERE email = printf('user%08d@example.org', ?1)"},
	{"range of 51", "SELECT id, email, age FROM users WHERE id BETWEEN ?1 AND ?1 + 50"},
	{"order by index, limit 20", "SELECT id, age FROM users WHERE ?1 >= 0 ORDER BY age LIMIT 20"},
	{"in (10 keys)", "SELECT id, age FROM users WHERE id IN (?1, ?1+1, ?1+2, ?1+3, ?1+4, ?1+5, ?1+6, ?1+7, ?1+8, ?1+9)"},
	{"join of 51 with 51", "SELECT u.email, o.total FROM users u JOIN orders o ON o.user_id = u.id WHERE u.id BETWEEN ?1 AND ?1 + 50"},
	{"count and average", "SELECT count(*), avg(age) FROM users WHERE ?1 >= 0"},
	{"20,000 look-ups", "SELECT sum(u.age) FROM orders o JOIN users u ON u.id = o.user_id WHERE ?1 >= 0"},
	{"group by index", "SELECT age, count(*), max(id) FROM users WHERE ?1 >= 0 GROUP BY age"},
	{"join without index", "SELECT count(*) FROM users a JOIN orders b ON b.total = a.age / 7.0 WHERE a.id < 500 AND ?1 >= 0"},
	{"count of the table", "SELECT count(*) FROM users"},
	{"count, term of a parameter", "SELECT count(*) FROM users WHERE ?1 IS NOT NULL"},
	{"count, term of no column", "SELECT count(*) FROM users WHERE ?1 >= 0"},
}

// BenchmarkBothSides compares a region's engine with the same library on a native file of the same rows, in turns, by the
// processor time of the process: shapes of queries, and the reports of the sample data if that is there.
func BenchmarkBothSides(b *testing.B) {
	script := filepath.Join(sampleData(), "chinook.sql")
	if _, err := os.Stat(script); err != nil {
		b.Logf("without the reports: %v", err)
		script = ""
	}
	s := newBench(b, script)
	type query struct{ name, query string }
	queries := make([]query, 0, 60)
	for _, shape := range benchShapes {
		queries = append(queries, query(shape))
	}
	if script != "" {
		statements(b, filepath.Join("testdata", "reports.sql"), func(sql string) {
			queries = append(queries, query{fmt.Sprintf("report %02d", len(queries)-len(benchShapes)+1), sql})
		})
	}
	sum, n, worst, which := 0.0, 0, 0.0, ""
	for _, q := range queries {
		b.Run(q.name, func(b *testing.B) {
			key := int64(1)
			for range 40 { // statements are compiled, and what is read often is kept
				key = s.both(b, q.query, key, nil)
			}
			var took [2]time.Duration
			for b.Loop() {
				key = s.both(b, q.query, key, &took)
			}
			ratio := float64(took[0]) / float64(took[1])
			b.ReportMetric(float64(took[0].Nanoseconds())/float64(b.N)/1000, "edge-µs")
			b.ReportMetric(float64(took[1].Nanoseconds())/float64(b.N)/1000, "native-µs")
			b.ReportMetric(ratio, "ratio")
			b.ReportMetric(0, "ns/op")
			sum += math.Log(ratio)
			n++
			if ratio > worst {
				worst, which = ratio, q.name
			}
		})
	}
	if n > 0 {
		b.Logf("geometric mean of %d: %.2f; worst: %.2f, %s", n, math.Exp(sum/float64(n)), worst, which)
	}
}

// bench is a region's replica and a native file.
type bench struct {
	db     *replica.Database
	id     uint32
	engine *edgesql.Engine
	native *sqlite.Conn
	stmts  map[string]*sqlite.Stmt
}

func newBench(b *testing.B, script string) *bench {
	b.Helper()
	fail := func(err error) {
		b.Helper()
		if err != nil {
			b.Fatal(err)
		}
	}
	m := meshtest.Start(b, meshtest.Options{Regions: []string{east}})
	m.Create("bench")
	native, err := sqlite.Open(filepath.Join(b.TempDir(), "native.sqlite"), sqlite.ReadWrite|sqlite.Create)
	fail(err)
	fail(native.Exec("PRAGMA journal_mode=WAL"))
	if script != "" {
		fail(native.Exec("BEGIN"))
		statements(b, script, func(sql string) {
			m.Exec(east, "bench", sql)
			fail(native.Exec(sql))
		})
		fail(native.Exec("COMMIT"))
	}
	for _, sql := range benchSchema {
		m.Exec(east, "bench", sql)
		fail(native.Exec(sql))
	}
	m.WaitSync("bench")
	m.StopSidecar(east)
	store, err := replica.OpenStore(filepath.Join(m.RegionDir(east), "replica"), replica.Options{Logger: slog.New(slog.DiscardHandler)})
	fail(err)
	engine, err := edgesql.New(edgesql.Options{MaxImages: edgesql.DefaultImageBytes})
	fail(err)
	b.Cleanup(func() { fail(errors.Join(engine.Close(), store.Close(), native.Close())) })
	s := &bench{engine: engine, native: native, stmts: make(map[string]*sqlite.Stmt)}
	for _, db := range store.Databases() {
		snap, err := db.Snapshot()
		fail(err)
		if cat := snap.Catalog(); cat != nil {
			for _, t := range cat.Tables {
				if t.Name == "orders" && len(t.Indexes) == 1 && t.Indexes[0].Name == "by_user" {
					s.db, s.id = db, db.ID()
				}
			}
		}
		fail(snap.Close())
	}
	return s
}

// both runs a query on both sides, adds what each took, and returns the next key.
func (s *bench) both(b *testing.B, sql string, key int64, took *[2]time.Duration) int64 {
	b.Helper()
	key = key * 7919 % 19_900
	st := &datav1.Statement{Sql: sql}
	if strings.Contains(sql, "?1") {
		st.Parameters = []*datav1.Value{value.ToProto(value.Integer(key))}
	}
	var rows [2]int
	for side, run := range []func(*datav1.Statement) (int, error){s.onReplica, s.onFile} {
		begun := processorTime(b)
		n, err := run(st)
		if err != nil {
			b.Fatal(err)
		}
		rows[side] = n
		if took != nil {
			took[side] += processorTime(b) - begun
		}
	}
	if rows[0] != rows[1] {
		b.Fatalf("%d rows and %d: %s", rows[0], rows[1], sql)
	}
	return key
}

func processorTime(b *testing.B) time.Duration {
	b.Helper()
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_PROCESS_CPUTIME_ID, &t); err != nil {
		b.Fatal(err)
	}
	return time.Duration(t.Nano())
}

// counter is a sink that counts.
type counter struct{ rows int }

func (*counter) Columns([]*datav1.Column) error { return nil }
func (c *counter) Row(*datav1.Row, int) error   { c.rows++; return nil }

func (s *bench) onReplica(st *datav1.Statement) (rows int, err error) {
	snap, err := s.db.Snapshot()
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, snap.Close()) }()
	var c counter
	_, err = s.engine.Query(context.Background(), s.id, snap, st, &c)
	return c.rows, err
}

func (s *bench) onFile(statement *datav1.Statement) (int, error) {
	sql := statement.GetSql()
	st := s.stmts[sql]
	if st == nil {
		var err error
		if st, _, err = s.native.Prepare(sql); err != nil {
			return 0, err
		}
		s.stmts[sql] = st
	}
	if err := sqlrun.Bind(st, statement); err != nil {
		return 0, err
	}
	var c counter
	_ = c.Columns(sqlrun.Columns(st))
	for {
		row, err := st.Step()
		if err != nil {
			return 0, err
		}
		if !row {
			return c.rows, st.Reset()
		}
		r, size := sqlrun.Row(st)
		_ = c.Row(r, size)
	}
}
