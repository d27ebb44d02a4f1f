package edgesql

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/internal/catalog"
	"github.com/nearside-dev/nearside/internal/rpcerr"
	"github.com/nearside-dev/nearside/internal/sqlite"
	"github.com/nearside-dev/nearside/internal/sqlrun"
	"github.com/nearside-dev/nearside/internal/value"
	"github.com/nearside-dev/nearside/sidecar/replica"
	"github.com/nearside-dev/nearside/sidecar/replica/replicatest"
)

const shopID = uint32(100)

// region is an engine over a real store with one database.
type region struct {
	tb      testing.TB
	store   *replica.Store
	engine  *Engine
	primary *replicatest.Primary
}

func newRegion(tb testing.TB, o Options) *region {
	tb.Helper()
	r := &region{tb: tb, primary: replicatest.NewPrimary()}
	var err error
	if r.store, err = replica.OpenStore("replica", replica.Options{FS: vfs.NewMem(), Logger: slog.New(slog.DiscardHandler)}); err != nil {
		tb.Fatal(err)
	}
	if r.engine, err = New(o); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := errors.Join(r.engine.Close(), r.store.Close()); err != nil {
			tb.Error(err)
		}
	})
	err = r.store.Adopt(replica.Identity{MeshID: [16]byte{1}, BookmarkKey: make([]byte, 16), PrimaryRegion: "p"})
	if err != nil {
		tb.Fatal(err)
	}
	return r
}

func (r *region) commit(changes ...replicatest.Change) {
	r.tb.Helper()
	if err := r.store.ApplyRecords(shopID, [][]byte{r.primary.Commit(changes...)}); err != nil {
		r.tb.Fatal(err)
	}
}

// query returns the rows of an answer, their values separated by commas.
func (r *region) query(ctx context.Context, sql string) (_ string, err error) {
	db, ok := r.store.Database(shopID)
	if !ok {
		return "", errors.New("no database")
	}
	snap, err := db.Snapshot()
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, snap.Close()) }()
	var sink sqlrun.Collector
	if _, err := r.engine.Query(ctx, shopID, snap, &datav1.Statement{Sql: sql}, &sink); err != nil {
		return "", err
	}
	var rows []string
	for _, row := range sink.Result.GetRows() {
		var cells []string
		for _, v := range row.GetValues() {
			if v := value.FromProto(v); v.Kind() == value.KindInteger {
				cells = append(cells, fmt.Sprint(v.Integer()))
			} else {
				cells = append(cells, v.Text())
			}
		}
		rows = append(rows, strings.Join(cells, ","))
	}
	return strings.Join(rows, ";"), nil
}

func accounts() *catalog.Table { return replicatest.Table(10, "accounts", "id", "money") }

func account(id, money int64) replicatest.Change {
	return replicatest.Put(accounts(), replicatest.Row(id, value.Integer(money)))
}

// One statement reads one version, however many tables it reads and however often, while commits move money about.
func TestOneVersion(t *testing.T) {
	r := newRegion(t, Options{MaxRunning: 3, MaxIdle: 2, MaxImages: 1 << 20})
	const count, total = 20, 20 * 100
	changes := []replicatest.Change{replicatest.Schema(accounts())}
	money := make([]int64, count)
	for id := range money {
		money[id] = 100
		changes = append(changes, account(int64(id), 100))
	}
	r.commit(changes...)
	done := make(chan struct{})
	var readers sync.WaitGroup
	for range 4 {
		readers.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				got, err := r.query(t.Context(), "SELECT sum(a.money), (SELECT sum(money) FROM accounts), count(b.id) FROM accounts a JOIN accounts b ON b.money = b.money AND b.id = a.id")
				if want := fmt.Sprintf("%d,%d,%d", total, total, count); err != nil || got != want {
					t.Errorf("%q, %v; want %q", got, err, want)
					return
				}
			}
		})
	}
	for i := range 300 {
		from, to := i*7%count, (i*13+1)%count
		if from == to {
			continue
		}
		money[from]--
		money[to]++
		r.commit(account(int64(from), money[from]), account(int64(to), money[to]))
	}
	close(done)
	readers.Wait()
	if n := len(r.engine.idle); n > 2 {
		t.Errorf("%d idle connections", n)
	}
}

func TestNewSchema(t *testing.T) {
	r := newRegion(t, Options{})
	r.commit(replicatest.Schema(accounts()), account(1, 5))
	want := func(sql, rows string) {
		t.Helper()
		if got, err := r.query(t.Context(), sql); err != nil || got != rows {
			t.Errorf("%s: %q, %v; want %q", sql, got, err, rows)
		}
	}
	want("SELECT * FROM accounts", "1,5")
	wider := replicatest.WithColumn(accounts(), "note", value.Text("n"))
	r.commit(replicatest.Schema(wider, replicatest.Table(11, "more", "id")))
	want("SELECT * FROM accounts", "1,5,n")
	want("SELECT count(*) FROM more", "0")
}

// SQLite takes only ASCII letters of two cases for one: "É" and "é" are two tables.
func TestNamesThatDifferInOtherLetters(t *testing.T) {
	r := newRegion(t, Options{})
	large, small := replicatest.Table(10, "É", "id", "a"), replicatest.Table(11, "é", "id", "a")
	r.commit(replicatest.Schema(large, small),
		replicatest.Put(large, replicatest.Row(1, value.Text("large"))), replicatest.Put(large, replicatest.Row(2, value.Text("large"))),
		replicatest.Put(small, replicatest.Row(1, value.Text("small"))))
	for sql, want := range map[string]string{
		`SELECT count(*) FROM "É"`: "2", `SELECT count(*) FROM "é"`: "1", `SELECT a FROM "É" WHERE id = 1`: "large", `SELECT a FROM "é"`: "small",
	} {
		if got, err := r.query(t.Context(), sql); err != nil || got != want {
			t.Errorf("%s: %q, %v; want %q", sql, got, err, want)
		}
	}
}

// However many sets of columns are asked for, one after the other, each is answered here.
func TestManyPlans(t *testing.T) {
	r := newRegion(t, Options{})
	const columns = 15
	names := []string{"id"}
	for i := range columns {
		names = append(names, fmt.Sprintf("c%d", i))
	}
	r.commit(replicatest.Schema(replicatest.Table(10, "t", names...)))
	for set := range 1<<columns - 1 {
		var chosen []string
		for i := range columns {
			if (set+1)&(1<<i) != 0 {
				chosen = append(chosen, fmt.Sprintf("c%d", i))
			}
		}
		if _, err := r.query(t.Context(), "SELECT "+strings.Join(chosen, ", ")+" FROM t WHERE id = 1"); err != nil {
			t.Fatalf("set %d: %v", set, err)
		}
	}
	for _, c := range r.engine.idle {
		if c.plans > maxKeptPlans {
			t.Errorf("a connection with %d plans is kept", c.plans)
		}
	}
}

func TestCancelled(t *testing.T) {
	r := newRegion(t, Options{MaxRunning: 1})
	r.commit(replicatest.Schema(accounts()), account(1, 5))
	ctx, cancel := context.WithCancel(t.Context())
	stopped := make(chan error)
	go func() {
		_, err := r.query(ctx, "WITH RECURSIVE s(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM s) SELECT count(*) FROM s")
		stopped <- err
	}()
	cancel()
	err := <-stopped
	if rpcerr.ReasonOf(err) != datav1.ErrorReason_ERROR_REASON_STATEMENT_INTERRUPTED && !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	if got, err := r.query(t.Context(), "SELECT money FROM accounts"); err != nil || got != "5" {
		t.Errorf("afterwards: %q, %v", got, err)
	}
}

func TestStatementsThatAreNotKept(t *testing.T) {
	r := newRegion(t, Options{MaxIdle: 1})
	r.commit(replicatest.Schema(accounts()), account(1, 5))
	long := "SELECT money FROM accounts --" + strings.Repeat("x", maxKeptText)
	for i := range maxStatements + 10 {
		for _, sql := range []string{long, fmt.Sprintf("SELECT money + %d - %d FROM accounts", i, i)} {
			if got, err := r.query(t.Context(), sql); err != nil || got != "5" {
				t.Fatalf("%q, %v", got, err)
			}
		}
	}
	c := r.engine.idle[0]
	if len(c.cached) != maxStatements || c.recent.Len() != maxStatements || c.cached[long] != nil {
		t.Errorf("%d statements kept", len(c.cached))
	}
	// Texts that are short enough may be of statements that are not.
	for i := range maxStatements {
		sql := "SELECT max(column1) FROM (VALUES " + strings.Repeat("(1), ", 500+i) + "(5))"
		if got, err := r.query(t.Context(), sql); err != nil || got != "5" {
			t.Fatalf("%q, %v", got, err)
		}
	}
	bytes := 0
	for _, e := range c.cached {
		bytes += e.Value.(*statement).bytes
	}
	if bytes != c.bytes || bytes > sqlrun.MaxKeptStatements || len(c.cached) != c.recent.Len() {
		t.Errorf("%d statements kept, %d in order, of %d bytes, counted %d", len(c.cached), c.recent.Len(), bytes, c.bytes)
	}
}

// A schema with more tables than sqlite_schema has rows for while they are made is all there.
func TestTablesBeyondOneSchema(t *testing.T) {
	r := newRegion(t, Options{})
	var tables []*catalog.Table
	for id := range uint32(2*declaredRows + 2) {
		tables = append(tables, replicatest.Table(10+id, fmt.Sprintf("t%d", id), "id"))
	}
	r.commit(replicatest.Schema(tables...))
	for _, table := range tables {
		if got, err := r.query(t.Context(), "SELECT count(*), max(a.id) FROM t0 b LEFT JOIN "+table.Name+" a"); err != nil || got != "0," {
			t.Errorf("%s: %q, %v", table.Name, got, err)
		}
	}
}

// Of a schema with many tables few connections are kept, but one at least.
func TestManyTables(t *testing.T) {
	r := newRegion(t, Options{})
	c := &catalog.Catalog{}
	for id := range uint32(maxIdleTables/3 + 1) {
		c.Tables = append(c.Tables, replicatest.Table(10+id, fmt.Sprintf("t%d", id), "id"))
	}
	for database := range uint32(4) {
		conn := &conn{database: database, catalog: c, tables: make([]*table, len(c.Tables))}
		var err error
		if conn.sql, err = sqlite.Open(":memory:", sqlite.ReadWrite|sqlite.Create); err != nil {
			t.Fatal(err)
		}
		if err := r.engine.put(conn); err != nil {
			t.Fatal(err)
		}
		if want := min(int(database)+1, 2); len(r.engine.idle) != want || r.engine.tables != want*len(c.Tables) {
			t.Errorf("%d connections with %d tables are kept", len(r.engine.idle), r.engine.tables)
		}
	}
	for _, database := range []uint32{0, 3} {
		if err := r.engine.Forget(database); err != nil {
			t.Fatal(err)
		}
	}
	last, err := r.engine.take(2, c, false)
	if err != nil || r.engine.tables != 0 || len(r.engine.idle) != 0 {
		t.Fatalf("%d connections with %d tables are kept, %v", len(r.engine.idle), r.engine.tables, err)
	}
	last.tables = make([]*table, maxIdleTables+1)
	if err := r.engine.put(last); err != nil || len(r.engine.idle) != 1 {
		t.Errorf("%d connections are kept, %v", len(r.engine.idle), err)
	}
}

// A table that has grown is planned for anew: the plan made for an empty one would read it whole for each row.
func TestPlansFollowSizes(t *testing.T) {
	r := newRegion(t, Options{})
	r.commit(replicatest.Schema(accounts()))
	const sql = "SELECT count(*) FROM accounts a JOIN accounts b ON b.money = a.money"
	for i := range 2 {
		if i == 1 {
			changes := make([]replicatest.Change, 1000)
			for id := range changes {
				changes[id] = account(int64(id), int64(id))
			}
			r.commit(changes...)
		}
		want := "0"
		if i == 1 {
			want = "1000"
		}
		if got, err := r.query(t.Context(), sql); err != nil || got != want {
			t.Fatalf("%d: %q, %v", i, got, err)
		}
	}
	s := r.engine.idle[0].cached[sql].Value.(*statement)
	if s.planned[0] != 1000 {
		t.Errorf("planned for %v rows", s.planned)
	}

	// Larger ones are looked at now and then.
	for from := 1000; from < 20000; from += 1000 {
		changes := make([]replicatest.Change, 1000)
		for id := range changes {
			changes[id] = account(int64(from+id), int64(from+id))
		}
		r.commit(changes...)
		if got, err := r.query(t.Context(), sql); err != nil || got != fmt.Sprint(from+1000) {
			t.Fatalf("%q, %v", got, err)
		}
	}
	if s := r.engine.idle[0].cached[sql].Value.(*statement); s.planned[0] < 8000 {
		t.Errorf("planned for %v rows", s.planned)
	}
}
