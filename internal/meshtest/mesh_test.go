package meshtest_test

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"
	"go.uber.org/goleak"
	"google.golang.org/protobuf/types/known/durationpb"

	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/internal/bookmark"
	"github.com/nearside-dev/nearside/internal/meshtest"
	"github.com/nearside-dev/nearside/internal/rpcerr"
	"github.com/nearside-dev/nearside/internal/rpcheader"
	"github.com/nearside-dev/nearside/internal/sqlsplit"
	"github.com/nearside-dev/nearside/internal/value"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	east = "us-east-1"
	west = "eu-west-1"
)

func wantError(t *testing.T, err error, code connect.Code, reason string) {
	t.Helper()
	if err == nil || connect.CodeOf(err) != code ||
		strings.TrimPrefix(rpcerr.ReasonOf(err).String(), "ERROR_REASON_") != reason {
		t.Errorf("error %v (%v), want %v with reason %s", err, rpcerr.ReasonOf(err), code, reason)
	}
}

func getID(m *meshtest.Mesh, region, mark string, id int64) (*datav1.GetResponse, error) {
	res, err := m.Client(region).Get(context.Background(), connect.NewRequest(&datav1.GetRequest{
		Database: "d", Table: "t", Key: &datav1.Key{Values: []*datav1.Value{value.ToProto(value.Integer(id))}},
		Consistency: &datav1.Consistency{Bookmark: mark, MaxWait: durationpb.New(10 * time.Second)},
	}))
	if err != nil {
		return nil, err
	}
	return res.Msg, nil
}

// TestReadYourWritesElsewhere writes through one region and reads with the bookmark in another: it never misses.
func TestReadYourWritesElsewhere(t *testing.T) {
	m := meshtest.Start(t, meshtest.Options{})
	m.Create("d")
	m.Exec("", "d", "CREATE TABLE t (id INTEGER PRIMARY KEY, a TEXT)")
	m.WaitSync("d")
	var wg sync.WaitGroup
	for writer := range 8 {
		wg.Go(func() {
			for i := range 50 {
				id := int64(writer*1000 + i)
				mark := m.Exec(east, "d", fmt.Sprintf("INSERT INTO t VALUES (%d, 'x')", id)).GetAnswer().GetBookmark()
				got, err := getID(m, west, mark, id)
				if err != nil {
					t.Error(err)
					return
				}
				if got.GetRow() == nil || got.GetAnswer().GetBookmark() < mark || got.GetAnswer().GetRegion() != west ||
					got.GetAnswer().GetSource() != datav1.Source_SOURCE_REPLICA {
					t.Errorf("row %d after %s: %v", id, mark, got)
				}
			}
		})
	}
	wg.Wait()
	if n := m.CompareAll("d"); n != 400 {
		t.Errorf("%d rows, want 400", n)
	}
}

func chinook(t *testing.T) *os.File {
	t.Helper()
	dir := os.Getenv("NEARSIDE_DATA")
	if dir == "" {
		dir = filepath.Join("..", "..", "..", "shared", "data")
	}
	f, err := os.Open(filepath.Join(dir, "chinook.sql"))
	if err != nil {
		t.Skipf("the Chinook sample database is not there (set NEARSIDE_DATA): %v", err)
	}
	t.Cleanup(func() { _ = f.Close() })
	return f
}

// TestChinookEverywhere puts a real database through the mesh and compares all rows.
func TestChinookEverywhere(t *testing.T) {
	file := chinook(t)
	m := meshtest.Start(t, meshtest.Options{Regions: []string{east, west, "ap-southeast-1"}})
	m.Create("chinook")
	statements := sqlsplit.NewScanner(file, sqlsplit.Options{})
	for statements.Scan() {
		m.Exec(east, "chinook", statements.Statement().Text)
	}
	if err := statements.Err(); err != nil {
		t.Fatal(err)
	}
	if n := m.CompareAll("chinook"); n != 15_607 {
		t.Errorf("%d rows, want 15607", n)
	}
	for table, key := range map[string][]int64{"Track": {3503}, "Album": {1}, "PlaylistTrack": {1, 3402}} {
		var values []*datav1.Value
		for _, k := range key {
			values = append(values, value.ToProto(value.Integer(k)))
		}
		res, err := m.Client(west).Get(context.Background(), connect.NewRequest(&datav1.GetRequest{
			Database: "chinook", Table: table, Key: &datav1.Key{Values: values},
		}))
		if err != nil || res.Msg.GetRow() == nil || res.Msg.GetAnswer().GetSource() != datav1.Source_SOURCE_REPLICA {
			t.Errorf("%s %v: %v, %v", table, key, res, err)
		}
	}
	// By an index, in its order, as SQL answers it.
	list, err := m.Client(west).List(context.Background(), connect.NewRequest(&datav1.ListRequest{
		Database: "chinook", Table: "Track", Index: "IFK_TrackAlbumId", Prefix: []*datav1.Value{value.ToProto(value.Integer(1))},
	}))
	if err != nil || len(list.Msg.GetRows()) != 10 || list.Msg.GetAnswer().GetSource() != datav1.Source_SOURCE_REPLICA {
		t.Errorf("tracks of album 1: %v, %v", list, err)
	}
}

func TestPrimaryStopped(t *testing.T) {
	m := meshtest.Start(t, meshtest.Options{})
	m.Create("d")
	m.Exec(west, "d", "CREATE TABLE t (id INTEGER PRIMARY KEY, a TEXT)")
	mark := m.Exec(west, "d", "INSERT INTO t VALUES (1, 'x')").GetAnswer().GetBookmark()
	m.WaitSync("d")
	m.StopPrimary()

	var before uint32
	m.Eventually("staleness grows", func(context.Context) error {
		res, err := getID(m, west, mark, 1)
		if err != nil || res.GetRow() == nil {
			t.Fatalf("a read of the replica failed: %v, %v", res, err)
		}
		now := res.GetAnswer().GetStalenessMs()
		defer func() { before = now }()
		if before == 0 || now <= before {
			return fmt.Errorf("staleness %d ms after %d ms", now, before)
		}
		return nil
	})
	if err := meshtest.Ready(context.Background(), m.HTTP(), m.URL(west)); err != nil {
		t.Errorf("a region without its primary is ready all the same: %v", err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	_, err := m.Client(west).Execute(ctx, connect.NewRequest(&datav1.ExecuteRequest{
		Database: "d", Statement: &datav1.Statement{Sql: "INSERT INTO t VALUES (2, 'y')"},
	}))
	wantError(t, err, connect.CodeUnavailable, "PRIMARY_UNAVAILABLE")
	if e, ok := rpcerr.FromError(err); !ok || e.RetryAfter() == 0 {
		t.Errorf("no hint when to retry: %v", err)
	}
	_, err = m.Client(west).Get(ctx, connect.NewRequest(&datav1.GetRequest{
		Database: "d", Table: "t", Key: &datav1.Key{Values: []*datav1.Value{value.ToProto(value.Integer(1))}},
		Consistency: &datav1.Consistency{Level: datav1.Consistency_LEVEL_PRIMARY},
	}))
	wantError(t, err, connect.CodeUnavailable, "PRIMARY_UNAVAILABLE")

	m.StartPrimary()
	m.Eventually("writes work again", func(ctx context.Context) error {
		_, err := m.Client(west).Execute(ctx, connect.NewRequest(&datav1.ExecuteRequest{
			Database: "d", Statement: &datav1.Statement{Sql: "INSERT OR IGNORE INTO t VALUES (2, 'y')"},
		}))
		return err
	})
	if n := m.CompareAll("d"); n != 2 {
		t.Errorf("%d rows, want 2: a refused write must not be half done", n)
	}
}

func TestBookmarksInARegion(t *testing.T) {
	m := meshtest.Start(t, meshtest.Options{})
	m.Create("d")
	m.Create("other")
	m.Exec("", "d", "CREATE TABLE t (id INTEGER PRIMARY KEY)")
	mark := m.Exec("", "other", "CREATE TABLE t (id INTEGER PRIMARY KEY)").GetAnswer().GetBookmark()
	m.WaitSync("d")
	_, err := getID(m, west, mark, 1)
	wantError(t, err, connect.CodeInvalidArgument, "BOOKMARK_WRONG_DATABASE")
	_, err = getID(m, west, mark[:20], 1)
	wantError(t, err, connect.CodeInvalidArgument, "BOOKMARK_MALFORMED")
	codec, err := bookmark.New(make([]byte, 32))
	if err != nil {
		t.Fatal(err)
	}
	_, err = getID(m, west, codec.Encode(bookmark.Bookmark{DatabaseID: 100, Epoch: 1, Version: 1}), 1)
	wantError(t, err, connect.CodePermissionDenied, "BOOKMARK_FORGED")

	codec = m.Bookmarks()
	_, err = m.Client(west).Get(context.Background(), connect.NewRequest(&datav1.GetRequest{
		Database: "d", Table: "t", Key: &datav1.Key{Values: []*datav1.Value{value.ToProto(value.Integer(1))}},
		Consistency: &datav1.Consistency{Bookmark: codec.Encode(bookmark.Bookmark{DatabaseID: 100, Epoch: 1, Version: 1 << 40})},
	}))
	wantError(t, err, connect.CodeFailedPrecondition, "BOOKMARK_AHEAD")
}

// TestRepeatsThroughARegion sends the same write again under its idempotency key: it is done once.
func TestRepeatsThroughARegion(t *testing.T) {
	m := meshtest.Start(t, meshtest.Options{})
	m.Create("d")
	m.Exec("", "d", "CREATE TABLE t (id INTEGER PRIMARY KEY, a)")
	for i := range 3 {
		req := connect.NewRequest(&datav1.ExecuteRequest{
			Database: "d", Statement: &datav1.Statement{Sql: "INSERT INTO t (a) VALUES (1) RETURNING id"},
		})
		req.Header().Set(rpcheader.IdempotencyKey, "key")
		res, err := m.Client([]string{east, west}[i%2]).Execute(context.Background(), req)
		if err != nil || res.Msg.GetReplayed() != (i > 0) || res.Msg.GetResult().GetRows()[0].GetValues()[0].GetInteger() != 1 {
			t.Errorf("try %d: %v, %v", i, res, err)
		}
	}
}

// TestSQLSaysWhereItWasAnswered: a region answers SELECTs itself, and passes on what it must.
func TestSQLSaysWhereItWasAnswered(t *testing.T) {
	m := meshtest.Start(t, meshtest.Options{})
	m.Create("d")
	a := m.Exec(west, "d", "PRAGMA encoding").GetAnswer()
	if !a.GetServedByPrimary() || a.GetSource() != datav1.Source_SOURCE_PRIMARY || a.GetRegion() != west {
		t.Errorf("answer %v", a)
	}
	a = m.Exec(west, "d", "SELECT 1").GetAnswer()
	if a.GetServedByPrimary() || a.GetSource() != datav1.Source_SOURCE_REPLICA || a.GetRegion() != west {
		t.Errorf("answer %v", a)
	}
	res, err := m.HTTP().Post(m.URL(west)+"/nearside.data.v1.DataService/Query", "application/json",
		strings.NewReader(`{"database":"d","statement":{"sql":"SELECT 9007199254740993 AS n"}}`))
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK || res.Header.Get(rpcheader.Source) != "REPLICA" || res.Header.Get(rpcheader.Region) != west {
		t.Errorf("%s %v", res.Status, res.Header)
	}
}

// TestSchemaChangesReplicate compares the regions with the primary after each of many kinds of change.
func TestSchemaChangesReplicate(t *testing.T) {
	m := meshtest.Start(t, meshtest.Options{})
	m.Create("d")
	for _, sql := range []string{
		"CREATE TABLE t (id INTEGER PRIMARY KEY, a TEXT UNIQUE, b)",
		"INSERT INTO t VALUES (1, 'one', 1), (2, 'two', 2.5), (3, NULL, x'00')",
		"CREATE TABLE w (a TEXT, b INT, c, PRIMARY KEY (a COLLATE NOCASE, b DESC)) WITHOUT ROWID",
		"INSERT INTO w VALUES ('A', 1, 1), ('b', 2, 2), ('B', 1, 3)",
		"CREATE INDEX by_b ON t (b)",
		"ALTER TABLE t ADD COLUMN c TEXT DEFAULT 'fill'",
		"INSERT INTO t VALUES (4, 'four', NULL, 'given')",
		"UPDATE t SET c = 'changed' WHERE id = 1",
		"ALTER TABLE t RENAME COLUMN b TO bee",
		"ALTER TABLE t RENAME TO tt",
		"INSERT OR REPLACE INTO tt VALUES (9, 'two', 0, 'replaced')",
		"UPDATE w SET a = 'z' WHERE c = 1",
		"UPDATE tt SET id = id + 10",
		"ALTER TABLE tt DROP COLUMN c",
		"CREATE TABLE copy AS SELECT * FROM w",
		"DELETE FROM w",
		"DROP INDEX by_b",
		"DROP TABLE w",
	} {
		m.Exec(west, "d", sql)
		m.CompareAll("d")
	}
}
