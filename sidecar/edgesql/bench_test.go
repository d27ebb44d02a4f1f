//go:build unix

package edgesql

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/internal/catalog"
	"github.com/nearside-dev/nearside/internal/sqlite"
	"github.com/nearside-dev/nearside/internal/sqlrun"
	"github.com/nearside-dev/nearside/internal/value"
	"github.com/nearside-dev/nearside/sidecar/replica"
	"github.com/nearside-dev/nearside/sidecar/replica/replicatest"
)

const benchID = uint32(100)

// benchShapes are the queries of which both sides are measured; ? is a key below the number of rows.
var benchShapes = []struct{ name, query string }{
	{"key", "SELECT email, age FROM users WHERE id = ?1"},
	{"unique", "SELECT id, age FROM users WHERE email = printf('user%08d@example.org', ?1)"},
	{"range", "SELECT id, email, age FROM users WHERE id BETWEEN ?1 AND ?1 + 50"},
	{"order", "SELECT id, age FROM users WHERE ?1 >= 0 ORDER BY age LIMIT 20"},
	{"in", "SELECT id, age FROM users WHERE id IN (?1, ?1+1, ?1+2, ?1+3, ?1+4, ?1+5, ?1+6, ?1+7, ?1+8, ?1+9)"},
	{"join", "SELECT u.email, o.total FROM users u JOIN orders o ON o.user_id = u.id WHERE u.id BETWEEN ?1 AND ?1 + 50"},
	{"scan", "SELECT count(*), avg(age) FROM users WHERE ?1 >= 0"},
	{"big join", "SELECT sum(u.age) FROM orders o JOIN users u ON u.id = o.user_id WHERE ?1 >= 0"},
	{"group", "SELECT age, count(*), max(id) FROM users WHERE ?1 >= 0 GROUP BY age"},
	{"no index", "SELECT count(*) FROM users a JOIN orders b ON b.total = a.age / 7.0 WHERE a.id < 500 AND ?1 >= 0"},
	{"bare count", "SELECT count(*) FROM users WHERE ?1 IS NOT NULL"},
	{"count", "SELECT count(*) FROM users WHERE ?1 >= 0"},
}

// bothSides are the same rows in a replica and in a native SQLite file.
type bothSides struct {
	store  *replica.Store
	engine *Engine
	native string
}

const nativeSchema = `PRAGMA journal_mode=WAL;
CREATE TABLE users (id INTEGER PRIMARY KEY, email TEXT, age INTEGER, bio TEXT);
CREATE TABLE orders (id INTEGER PRIMARY KEY, user_id INTEGER, total REAL);
CREATE UNIQUE INDEX by_email ON users (email);
CREATE INDEX by_age ON users (age);
CREATE INDEX by_user ON orders (user_id);`

func newBothSides(tb testing.TB, rows int64) *bothSides {
	tb.Helper()
	dir := tb.TempDir()
	users := replicatest.Table(10, "users", "id", "email", "age", "bio")
	orders := replicatest.Table(11, "orders", "id", "user_id", "total")
	declare := func(t *catalog.Table, column int, kind string, affinity catalog.Affinity) {
		t.Columns[column].DeclaredType, t.Columns[column].Affinity = kind, affinity
	}
	declare(users, 1, "TEXT", catalog.AffinityText)
	declare(users, 2, "INTEGER", catalog.AffinityInteger)
	declare(users, 3, "TEXT", catalog.AffinityText)
	declare(orders, 1, "INTEGER", catalog.AffinityInteger)
	declare(orders, 2, "REAL", catalog.AffinityReal)
	users = replicatest.WithIndex(replicatest.WithIndex(users, 20, "by_email", true, "email"), 21, "by_age", false, "age")
	orders = replicatest.WithIndex(orders, 22, "by_user", false, "user_id")

	s := &bothSides{native: filepath.Join(dir, "native.sqlite")}
	conn, err := sqlite.Open(s.native, sqlite.ReadWrite|sqlite.Create)
	must(tb, err)
	must(tb, conn.Exec(nativeSchema))
	s.store, err = replica.OpenStore(filepath.Join(dir, "replica"), replica.Options{Logger: slog.New(slog.DiscardHandler)})
	must(tb, err)
	must(tb, s.store.Adopt(replica.Identity{MeshID: [16]byte{1}, BookmarkKey: make([]byte, 16), PrimaryRegion: "p"}))
	s.engine, err = New(Options{MaxImages: DefaultImageBytes})
	must(tb, err)
	tb.Cleanup(func() { must(tb, errors.Join(s.engine.Close(), s.store.Close())) })

	p := replicatest.NewPrimary()
	must(tb, s.store.ApplyRecords(benchID, [][]byte{p.Commit(replicatest.Schema(users, orders))}))
	must(tb, conn.Exec("BEGIN"))
	for id := range rows {
		email, bio, age := fmt.Sprintf("user%08d@example.org", id), strings.Repeat("b", 120), id*7919%97
		record := p.Commit(
			replicatest.Put(users, replicatest.Row(id, value.Text(email), value.Integer(age), value.Text(bio))),
			replicatest.Put(orders, replicatest.Row(id, value.Integer(id*31%rows), value.Real(float64(id)/7))))
		must(tb, s.store.ApplyRecords(benchID, [][]byte{record}))
		must(tb, conn.Exec(fmt.Sprintf("INSERT INTO users VALUES (%d, '%s', %d, '%s'); INSERT INTO orders VALUES (%d, %d, %d / 7.0)",
			id, email, age, bio, id, id*31%rows, id)))
	}
	must(tb, conn.Exec("COMMIT"))
	must(tb, s.store.Close()) // what was written last is in tables then, as most rows of a replica are
	s.store, err = replica.OpenStore(filepath.Join(dir, "replica"), replica.Options{Logger: slog.New(slog.DiscardHandler)})
	must(tb, err)
	must(tb, conn.Close())
	return s
}

func must(tb testing.TB, err error) {
	tb.Helper()
	if err != nil {
		tb.Fatal(err)
	}
}

// rowCounter is a sink that counts.
type rowCounter struct{ rows int }

func (*rowCounter) Columns([]*datav1.Column) error { return nil }
func (c *rowCounter) Row(*datav1.Row, int) error   { c.rows++; return nil }

// edge runs a query on the replica.
func (s *bothSides) edge(sql string, key int64) (rows int, err error) {
	db, _ := s.store.Database(benchID)
	snap, err := db.Snapshot()
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, snap.Close()) }()
	var c rowCounter
	_, err = s.engine.Query(context.Background(), benchID, snap, &datav1.Statement{
		Sql: sql, Parameters: []*datav1.Value{value.ToProto(value.Integer(key))},
	}, &c)
	return c.rows, err
}

// native runs a query on a connection as the primary would: statements are kept.
type native struct {
	conn  *sqlite.Conn
	stmts map[string]*sqlite.Stmt
}

func (s *bothSides) open() (*native, error) {
	conn, err := sqlite.Open(s.native, sqlite.ReadOnly)
	return &native{conn: conn, stmts: make(map[string]*sqlite.Stmt)}, err
}

func (n *native) query(sql string, key int64) (rows int, err error) {
	st := n.stmts[sql]
	if st == nil {
		if st, _, err = n.conn.Prepare(sql); err != nil {
			return 0, err
		}
		n.stmts[sql] = st
	}
	if err := sqlrun.Bind(st, &datav1.Statement{Parameters: []*datav1.Value{value.ToProto(value.Integer(key))}}); err != nil {
		return 0, err
	}
	var c rowCounter
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

// TestBenchShapes keeps the benchmark honest: both sides answer the same number of rows.
func TestBenchShapes(t *testing.T) {
	s := newBothSides(t, 300)
	n, err := s.open()
	must(t, err)
	defer func() { must(t, n.conn.Close()) }()
	for _, shape := range benchShapes {
		want, err := n.query(shape.query, 17)
		must(t, err)
		got, err := s.edge(shape.query, 17)
		if err != nil || got != want || got == 0 {
			t.Errorf("%s: %d rows, want %d; %v", shape.name, got, want, err)
		}
	}
}

// reportCPU reports the processor time of an operation, which says more than the clock where others use the machine.
func reportCPU(b *testing.B) {
	b.Helper()
	used := func() int64 {
		var u syscall.Rusage
		if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
			b.Fatal(err)
		}
		return u.Utime.Nano() + u.Stime.Nano()
	}
	begun := used()
	b.Cleanup(func() { b.ReportMetric(float64(used()-begun)/float64(b.N), "cpu-ns/op") })
}

// BenchmarkShapes compares the replica with a native file, shape by shape.
func BenchmarkShapes(b *testing.B) {
	s := newBothSides(b, 20_000)
	n, err := s.open()
	must(b, err)
	defer func() { must(b, n.conn.Close()) }()
	for _, shape := range benchShapes {
		for _, side := range []struct {
			name  string
			query func(string, int64) (int, error)
		}{{"edge", s.edge}, {"native", n.query}} {
			b.Run(shape.name+"/"+side.name, func(b *testing.B) {
				b.ReportAllocs()
				reportCPU(b)
				key := int64(1)
				for b.Loop() {
					key = key * 7919 % 19_900
					if _, err := side.query(shape.query, key); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}

// BenchmarkScaling has statements on as many goroutines as there are processors; run it with -cpu 1,2.
func BenchmarkScaling(b *testing.B) {
	s := newBothSides(b, 20_000)
	for _, shape := range benchShapes {
		switch shape.name {
		case "key", "range", "join":
		default:
			continue
		}
		b.Run(shape.name, func(b *testing.B) {
			b.ReportAllocs()
			reportCPU(b)
			b.RunParallel(func(pb *testing.PB) {
				key := int64(1)
				for pb.Next() {
					key = key * 7919 % 19_900
					if _, err := s.edge(shape.query, key); err != nil {
						b.Error(err)
						return
					}
				}
			})
		})
	}
}
