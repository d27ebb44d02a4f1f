package cache_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/durationpb"

	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/internal/meshtest"
)

const sumSQL = "SELECT sum(n) AS total FROM t"

func query(m *meshtest.Mesh, region, sql, mark string, maxAge *durationpb.Duration) (*datav1.QueryResponse, error) {
	res, err := m.Client(region).Query(context.Background(), connect.NewRequest(&datav1.QueryRequest{
		Database: "d", Statement: &datav1.Statement{Sql: sql}, MaxAge: maxAge,
		Consistency: &datav1.Consistency{Bookmark: mark, MaxWait: durationpb.New(10 * time.Second)},
	}))
	if err != nil {
		return nil, err
	}
	return res.Msg, nil
}

// fromMemory asks a statement until memory answers it.
func fromMemory(t *testing.T, m *meshtest.Mesh, region, sql string) {
	t.Helper()
	m.Eventually("memory answers "+sql, func(context.Context) error {
		res, err := query(m, region, sql, "", nil)
		if err != nil {
			t.Fatal(err)
		}
		if res.GetAnswer().GetSource() != datav1.Source_SOURCE_MEMORY {
			return fmt.Errorf("answer is %v", res.GetAnswer())
		}
		return nil
	})
}

// A result is in memory as long as its tables do not change, and a write is seen by the next statement that has its bookmark.
func TestResultsAreNeverStale(t *testing.T) {
	m := start(t)
	m.Exec("", "d", "CREATE TABLE other (id INTEGER PRIMARY KEY)")
	m.Exec("", "d", "CREATE VIEW v AS SELECT n FROM t")
	m.WaitSync("d")
	fromMemory(t, m, "eu-west-1", sumSQL)
	fromMemory(t, m, "eu-west-1", "SELECT sum(n) FROM v")
	// The same in other letters, at once.
	res, err := query(m, "eu-west-1", "select  sum(n) AS total from t -- again\n;", "", nil)
	if err != nil || res.GetAnswer().GetSource() != datav1.Source_SOURCE_MEMORY {
		t.Errorf("in other letters: %v, %v", res, err)
	}
	// Another table's change does not matter.
	mark := m.Exec("us-east-1", "d", "INSERT INTO other VALUES (1)").GetAnswer().GetBookmark()
	m.WaitSync("d") // a read that has to wait for its bookmark is the copy's
	res, err = query(m, "eu-west-1", sumSQL, mark, nil)
	if err != nil || res.GetAnswer().GetSource() != datav1.Source_SOURCE_MEMORY || res.GetAnswer().GetBookmark() < mark {
		t.Errorf("after another table's change: %v, %v", res, err)
	}
	// Nor is anything answered that is older than was asked.
	res, err = query(m, "eu-west-1", sumSQL, mark, durationpb.New(0))
	if err != nil || res.GetAnswer().GetSource() != datav1.Source_SOURCE_REPLICA {
		t.Errorf("at no age: %v, %v", res, err)
	}
	if res, err = query(m, "eu-west-1", sumSQL, mark, durationpb.New(time.Hour)); err != nil || res.GetAnswer().GetSource() != datav1.Source_SOURCE_MEMORY {
		t.Errorf("at an hour's age: %v, %v", res, err)
	}
	for n := int64(1); n <= 20; n++ {
		mark := m.Exec(regions[n%3], "d", fmt.Sprintf("UPDATE t SET n = %d WHERE id = 1", n)).GetAnswer().GetBookmark()
		var wg sync.WaitGroup
		for _, region := range regions {
			for _, sql := range []string{sumSQL, "SELECT sum(n) FROM v", sumSQL} {
				wg.Go(func() {
					for range 2 {
						res, err := query(m, region, sql, mark, nil)
						if err != nil {
							t.Error(err)
							return
						}
						if got := res.GetResult().GetRows()[0].GetValues()[0].GetInteger(); got != n || res.GetAnswer().GetBookmark() < mark {
							t.Errorf("%s: %s is %d after %d was written: %v", region, sql, got, n, res.GetAnswer())
						}
					}
				})
			}
		}
		wg.Wait()
	}
	// Random numbers and the time are made anew.
	for _, sql := range []string{"SELECT random() FROM t", "SELECT datetime('now')"} {
		for range 3 {
			if res, err := query(m, "eu-west-1", sql, "", nil); err != nil || res.GetAnswer().GetSource() == datav1.Source_SOURCE_MEMORY {
				t.Errorf("%s: %v, %v", sql, res, err)
			}
		}
	}
	// Another meaning of the same words.
	mark = m.Exec("us-east-1", "d", "DROP VIEW v").GetAnswer().GetBookmark()
	if res, err := query(m, "eu-west-1", "SELECT sum(n) FROM v", mark, nil); err == nil {
		t.Errorf("of a view that was dropped: %v", res)
	}
	mark = m.Exec("us-east-1", "d", "CREATE VIEW v AS SELECT 7 AS n").GetAnswer().GetBookmark()
	res, err = query(m, "eu-west-1", "SELECT sum(n) FROM v", mark, nil)
	if err != nil || res.GetResult().GetRows()[0].GetValues()[0].GetInteger() != 7 {
		t.Errorf("of another view: %v, %v", res, err)
	}
	// Operators' invalidation.
	fromMemory(t, m, "eu-west-1", sumSQL)
	valuesOf(t, m, "eu-west-1").forget(&datav1.CacheServiceInvalidateRequest{
		Database: "d", Target: &datav1.CacheServiceInvalidateRequest_Table{Table: "t"},
	})
	if res, err := query(m, "eu-west-1", sumSQL, "", nil); err != nil || res.GetAnswer().GetSource() != datav1.Source_SOURCE_REPLICA {
		t.Errorf("after it was forgotten: %v, %v", res, err)
	}
}
