package meshtest_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"

	"github.com/nearside-dev/nearside/client"
	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/gen/nearside/data/v1/datav1connect"
	"github.com/nearside-dev/nearside/internal/meshtest"
	"github.com/nearside-dev/nearside/internal/value"
)

// watchedQueries are statements over the ledger's table, and what they answer in one of its states.
var watchedQueries = []struct {
	name string
	st   *datav1.Statement
	want func(map[int64]item) string
}{
	{"rows", &datav1.Statement{Sql: "SELECT id, n, kind FROM items ORDER BY id"}, func(m map[int64]item) string {
		var b strings.Builder
		for _, id := range slices.Sorted(maps.Keys(m)) {
			fmt.Fprintf(&b, "%d,%d,%s;", id, m[id].n, m[id].kind)
		}
		return b.String()
	}},
	{"sum", &datav1.Statement{Sql: "SELECT count(*), coalesce(sum(n), 0) FROM items"}, func(m map[int64]item) string {
		sum := int64(0)
		for _, i := range m {
			sum += i.n
		}
		return fmt.Sprintf("%d,%d;", len(m), sum)
	}},
	{"parameter", &datav1.Statement{Sql: "SELECT n FROM items WHERE id = ?", Parameters: []*datav1.Value{value.ToProto(value.Integer(7))}},
		func(m map[int64]item) string {
			if i, ok := m[7]; ok {
				return fmt.Sprintf("%d;", i.n)
			}
			return ""
		}},
}

func resultText(set *datav1.ResultSet) string {
	var b strings.Builder
	for _, row := range set.GetRows() {
		for i, v := range row.GetValues() {
			if i > 0 {
				b.WriteByte(',')
			}
			switch k := v.GetKind().(type) {
			case *datav1.Value_Integer:
				fmt.Fprint(&b, k.Integer)
			default:
				b.WriteString(v.GetText())
			}
		}
		b.WriteByte(';')
	}
	return b.String()
}

// followQuery watches a query until done is closed and it is told what it answers then. Each answer is that of its bookmark, each
// another one than the one before, and bookmarks grow. Between the first answer and the others it waits for on.
func (l *ledger) followQuery(
	ctx context.Context, data datav1connect.DataServiceClient, st *datav1.Statement, want func(map[int64]item) string,
	begun func(), on, done <-chan struct{},
) error {
	last, told, results := "", "", 0
	for r, err := range client.WatchQuery(ctx, data, &datav1.WatchQueryRequest{Database: "w", Statement: st}) {
		if err != nil {
			return err
		}
		mark, got := r.Answer.GetBookmark(), resultText(r.Result)
		if results++; results > 1 && (mark <= last || got == told) {
			return fmt.Errorf("told %q at %s after %q at %s", got, mark, told, last)
		}
		last, told = mark, got
		state, atEnd, known := l.at(mark, func(int64, item) bool { return true })
		if !known {
			return fmt.Errorf("unknown bookmark %s", mark)
		}
		if want := want(state); got != want {
			return fmt.Errorf("at %s told %q, want %q", mark, got, want)
		}
		if results == 1 {
			begun()
			<-on
		}
		if atEnd {
			select {
			case <-done:
				return nil
			default:
			}
		}
	}
	return errors.New("the watch ended without a reason")
}

// followQueries watches all queries at once while write writes, each also by one who sees nothing after the first answer until the
// writing has ended.
func (l *ledger) followQueries(data func() datav1connect.DataServiceClient, write func()) {
	l.t.Helper()
	ctx, cancel := context.WithTimeout(l.t.Context(), time.Minute)
	defer cancel()
	done, now := make(chan struct{}), make(chan struct{})
	close(now)
	var begun, ended sync.WaitGroup
	for _, q := range watchedQueries {
		for _, on := range []<-chan struct{}{now, done} {
			begun.Add(1)
			ended.Go(func() {
				once := sync.OnceFunc(begun.Done)
				defer once()
				if err := l.followQuery(ctx, data(), q.st, q.want, once, on, done); err != nil {
					l.t.Errorf("%s: %v", q.name, err)
				}
			})
		}
	}
	begun.Wait()
	write()
	l.exec("DELETE FROM items", func(m map[int64]item) { clear(m) })
	close(done)
	l.exec("INSERT INTO items VALUES (7, 1000, 'b'), (8, 1, 'a')", func(m map[int64]item) { m[7], m[8] = item{1000, "b"}, item{1, "a"} })
	ended.Wait()
}

// TestWatchQueryIsExact watches queries in one region while another place writes: each answer is that of its bookmark, also when
// the region and the primary are restarted in between.
func TestWatchQueryIsExact(t *testing.T) {
	m := meshtest.Start(t, meshtest.Options{})
	l := newLedger(t, m.Client(""))
	m.WaitSync("w")
	streams := streaming(t)
	r := rand.New(rand.NewPCG(5, 6))
	l.followQueries(func() datav1connect.DataServiceClient {
		return datav1connect.NewDataServiceClient(streams, m.URL(west))
	}, func() {
		for i := range 200 {
			switch i {
			case 60:
				m.StopSidecar(west)
			case 90:
				m.StartSidecar(west)
			case 130:
				m.StopPrimary()
				m.StartPrimary()
			}
			l.write(r)
		}
	})
}

// TestWatchQueryOverKill kills the region's process.
func TestWatchQueryOverKill(t *testing.T) {
	streams := streaming(t)
	ps := meshtest.StartProcesses(t, streams, west)
	l := newLedger(t, datav1connect.NewDataServiceClient(streams, ps.PrimaryURL()))
	meshtest.WaitSync(t, streams, ps.PrimaryURL(), ps.URLs(), "w")
	r := rand.New(rand.NewPCG(7, 8))
	l.followQueries(func() datav1connect.DataServiceClient {
		return datav1connect.NewDataServiceClient(streams, ps.URL(west), connect.WithProtoJSON())
	}, func() {
		for i := range 150 {
			l.write(r)
			if i%80 == 60 {
				ps.KillSidecar(west)
				ps.StartSidecar(west)
			}
		}
	})
}

// TestWatchQueryEnds has what a query reads changed, and views, through which it reads.
func TestWatchQueryEnds(t *testing.T) {
	m := meshtest.Start(t, meshtest.Options{})
	m.Create("d")
	for change, ends := range map[string]bool{
		"ALTER TABLE t ADD COLUMN c":         true,
		"ALTER TABLE t RENAME TO u":          true,
		"DROP TABLE t":                       true,
		"DROP VIEW v":                        true,
		"CREATE INDEX i ON t (a)":            false,
		"CREATE TABLE other (id)":            false,
		"DROP TRIGGER IF EXISTS no_such_one": false,
	} {
		m.Exec("", "d", "CREATE TABLE t (id INTEGER PRIMARY KEY, a)")
		m.Exec("", "d", "CREATE VIEW v AS SELECT a FROM t WHERE id > 0")
		m.WaitSync("d")
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		told := ""
		var err error
		for r, watchErr := range client.WatchQuery(ctx, m.Client(west), &datav1.WatchQueryRequest{
			Database: "d", Statement: &datav1.Statement{Sql: "SELECT a FROM v ORDER BY a"},
		}) {
			if err = watchErr; err != nil {
				break
			}
			if told += "/" + resultText(r.Result); told == "/" {
				m.Exec("", "d", "INSERT INTO t (id, a) VALUES (1, 'x')")
			}
			if told == "//x;" {
				m.Exec("", "d", change)
				if !ends {
					m.Exec("", "d", "INSERT INTO t (id, a) VALUES (2, 'y')")
				}
			}
			if told == "//x;/x;y;" {
				break
			}
		}
		cancel()
		if ends {
			wantError(t, err, connect.CodeFailedPrecondition, "SCHEMA_CHANGED")
		} else if err != nil || told != "//x;/x;y;" {
			t.Errorf("%s: told %q, %v", change, told, err)
		}
		for _, sql := range []string{"DROP VIEW IF EXISTS v", "DROP TABLE IF EXISTS t", "DROP TABLE IF EXISTS u", "DROP TABLE IF EXISTS other"} {
			m.Exec("", "d", sql)
		}
	}
}

func TestWatchQueryRefuses(t *testing.T) {
	m := meshtest.Start(t, meshtest.Options{})
	m.Create("d")
	m.Create("e")
	m.Exec("", "d", "CREATE TABLE t (id INTEGER PRIMARY KEY, a)")
	other := m.Exec("", "e", "CREATE TABLE t (a)").GetAnswer().GetBookmark()
	m.WaitSync("d")
	for _, test := range []struct {
		database, sql string
		consistency   *datav1.Consistency
		code          connect.Code
		reason        string
	}{
		{"none", "SELECT 1", nil, connect.CodeNotFound, "DATABASE_NOT_FOUND"},
		{"d", "SELECT * FROM none", nil, connect.CodeInvalidArgument, "STATEMENT_INVALID"},
		{"d", "INSERT INTO t VALUES (1, 2)", nil, connect.CodeInvalidArgument, "STATEMENT_WRITES"},
		{"d", "SELECT random() FROM t", nil, connect.CodeUnimplemented, "STATEMENT_NOT_WATCHABLE"},
		{"d", "SELECT name FROM sqlite_sequence", nil, connect.CodeInvalidArgument, "STATEMENT_INVALID"},
		{"d", "SELECT 1", &datav1.Consistency{Level: datav1.Consistency_LEVEL_PRIMARY}, connect.CodeInvalidArgument, "FIELD_INVALID"},
		{"d", "SELECT 1", &datav1.Consistency{Bookmark: "x"}, connect.CodeInvalidArgument, "BOOKMARK_MALFORMED"},
		{"d", "SELECT 1", &datav1.Consistency{Bookmark: other}, connect.CodeInvalidArgument, "BOOKMARK_WRONG_DATABASE"},
	} {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		for r, err := range client.WatchQuery(ctx, m.Client(west), &datav1.WatchQueryRequest{
			Database: test.database, Statement: &datav1.Statement{Sql: test.sql}, Consistency: test.consistency,
		}) {
			if err == nil {
				t.Errorf("%s: told %v", test.sql, r)
				break
			}
			wantError(t, err, test.code, test.reason)
		}
		cancel()
	}
}
