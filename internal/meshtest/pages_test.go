package meshtest_test

import (
	"cmp"
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/durationpb"

	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/internal/meshtest"
	"github.com/nearside-dev/nearside/internal/value"
)

// pagedRow is a row of TestPageTokensLiveThroughCommits; a is -1 for NULL, which sorts before all.
type pagedRow struct {
	id, a int64
	b     string
}

func (r pagedRow) insert() string {
	a := "NULL"
	if r.a >= 0 {
		a = fmt.Sprint(r.a)
	}
	return fmt.Sprintf("INSERT OR REPLACE INTO t VALUES (%d, %s, '%s');", r.id, a, r.b)
}

// orders are the orders that pages are asked in.
var orders = map[string]func(x, y pagedRow) int{
	"": func(x, y pagedRow) int { return cmp.Compare(x.id, y.id) },
	"by_a_b": func(x, y pagedRow) int {
		return cmp.Or(cmp.Compare(x.a, y.a), -strings.Compare(strings.ToLower(x.b), strings.ToLower(y.b)), cmp.Compare(x.id, y.id))
	},
}

// TestPageTokensLiveThroughCommits changes rows between the pages of a list: those before the page's end, behind it, the last
// one itself. Each page must be what is there now behind the page before, at the primary and in a region, by key and by index, both ways.
func TestPageTokensLiveThroughCommits(t *testing.T) {
	m := meshtest.Start(t, meshtest.Options{})
	m.Create("d")
	m.Exec("", "d", "CREATE TABLE t (id INTEGER PRIMARY KEY, a INTEGER, b TEXT NOT NULL COLLATE NOCASE)")
	m.Exec("", "d", "CREATE INDEX by_a_b ON t (a, b DESC)")
	random := rand.New(rand.NewPCG(4, 2))
	rows := make(map[int64]pagedRow)
	mark := ""
	change := func(sql string) { mark = m.Exec("", "d", sql).GetAnswer().GetBookmark() }
	put := func(id int64) {
		rows[id] = pagedRow{id: id, a: random.Int64N(5) - 1, b: strings.Repeat(string("aAbBcC"[random.IntN(6)]), 1+random.IntN(2))}
		change(rows[id].insert())
	}
	drop := func(id int64) {
		delete(rows, id)
		change(fmt.Sprintf("DELETE FROM t WHERE id = %d", id))
	}
	for range 40 {
		put(random.Int64N(100) - 50)
	}
	for _, region := range []string{"", east, west} {
		for index, order := range orders {
			for _, reverse := range []bool{false, true} {
				name := fmt.Sprintf("region %q, index %q, reverse %v", region, index, reverse)
				compare := order
				if reverse {
					compare = func(x, y pagedRow) int { return order(y, x) }
				}
				req := &datav1.ListRequest{Database: "d", Table: "t", Index: index, Reverse: reverse, PageSize: 5}
				var last *pagedRow
				for pages := 0; ; pages++ {
					if len(rows) < 30 {
						put(random.Int64N(100) - 50)
					}
					req.Consistency = &datav1.Consistency{Bookmark: mark, MaxWait: durationpb.New(10 * time.Second)}
					res, err := m.Client(region).List(context.Background(), connect.NewRequest(req))
					if err != nil {
						t.Fatalf("%s, page %d: %v", name, pages, err)
					}
					var want []pagedRow
					for _, r := range rows {
						if last == nil || compare(r, *last) > 0 {
							want = append(want, r)
						}
					}
					slices.SortFunc(want, compare)
					if byPrimary := res.Msg.GetAnswer().GetServedByPrimary(); byPrimary != (region == "") {
						t.Errorf("%s, page %d: served by the primary: %v", name, pages, byPrimary)
					}
					got := pagedRows(res.Msg)
					if more := res.Msg.GetNextPageToken() != ""; !slices.Equal(got, want[:min(5, len(want))]) || !more && len(want) > 5 {
						t.Fatalf("%s, page %d after %v: %v (more: %v), want the first of %v", name, pages, last, got, more, want)
					}
					if res.Msg.GetNextPageToken() == "" {
						break
					}
					if pages > 100 {
						t.Fatalf("%s: no end", name)
					}
					req.PageToken, last = res.Msg.GetNextPageToken(), &got[len(got)-1]
					switch random.IntN(4) {
					case 0:
						drop(last.id)
					case 1:
						put(last.id) // it moves in the index
					case 2:
						put(got[0].id)
						drop(got[1].id)
					default:
					}
					put(random.Int64N(100) - 50)
				}
			}
		}
	}
}

func pagedRows(page *datav1.ListResponse) (rows []pagedRow) {
	for _, r := range page.GetRows() {
		v := value.FromProtos(r.GetValues())
		row := pagedRow{id: v[0].Integer(), a: -1, b: v[2].Text()}
		if v[1].Kind() == value.KindInteger {
			row.a = v[1].Integer()
		}
		rows = append(rows, row)
	}
	return rows
}
