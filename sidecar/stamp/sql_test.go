package stamp_test

import (
	"context"
	"math/rand/v2"
	"net/http"
	"strings"

	"google.golang.org/protobuf/proto"

	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/internal/sqlsplit"
	"github.com/nearside-dev/nearside/sidecar/memory"
	"github.com/nearside-dev/nearside/sidecar/stamp"
)

// statement is SQL and what it must answer, which its parameters decide on.
type statement struct {
	sql  string
	want func(parameters []*datav1.Value) func(*state) string
}

var (
	allUsers = statement{"SELECT * FROM users ORDER BY id", func([]*datav1.Value) func(*state) string {
		return func(s *state) string { return s.list("") }
	}}
	oneUser = statement{"SELECT * FROM users WHERE id = ?", func(parameters []*datav1.Value) func(*state) string {
		return func(s *state) string {
			if text := s.text(parameters[0].GetInteger()); text != "none" {
				return text
			}
			return ""
		}
	}}
	usersOfAView = statement{
		"WITH v AS (SELECT * FROM users) SELECT * FROM v WHERE EXISTS (SELECT 1 FROM users) ORDER BY age, id", func([]*datav1.Value) func(*state) string {
			return func(s *state) string { return s.list("by_age") }
		},
	}
)

// spelled returns a statement in other letters.
func spelled(random *rand.Rand, s statement) statement {
	s.sql = strings.ReplaceAll(s.sql, " ", []string{" ", "  ", "\n\t", " /* x */ "}[random.IntN(4)])
	return s
}

func (w *world) query(mark string, s statement, parameters ...*datav1.Value) (*datav1.Answer, error) {
	res, err := w.path.Query(context.Background(), http.Header{}, &datav1.QueryRequest{
		Database: "shop", Statement: &datav1.Statement{Sql: s.sql, Parameters: parameters}, Consistency: freshness(mark),
	})
	if err != nil || res == nil {
		return primaryAnswer, err
	}
	return res.GetAnswer(), w.wrong(res.GetAnswer(), mark, resultText(res.GetResult()), s.want(parameters))
}

func (w *world) execute(mark string, s statement) (*datav1.Answer, error) {
	res, err := w.path.Execute(context.Background(), http.Header{}, &datav1.ExecuteRequest{
		Database: "shop", Statement: &datav1.Statement{Sql: s.sql}, Consistency: freshness(mark),
	})
	if err != nil || res == nil {
		return primaryAnswer, err
	}
	return res.GetAnswer(), w.wrong(res.GetAnswer(), mark, resultText(res.GetResult()), s.want(nil))
}

func resultText(set *datav1.ResultSet) string {
	lines := make([]string, len(set.GetRows()))
	for i, row := range set.GetRows() {
		lines[i] = rowText(row)
	}
	return strings.Join(lines, "\n")
}

// readResult returns what allUsers answers, and when that was read.
func (w *world) readResult() (*datav1.ResultSet, stamp.Reading) {
	_, reading := w.readRow(1)
	res, err := w.path.Query(context.Background(), http.Header{}, &datav1.QueryRequest{
		Database: "shop", Statement: &datav1.Statement{Sql: allUsers.sql},
	})
	if err != nil || res == nil {
		w.tb.Fatalf("%v, %v", res, err)
	}
	return res.GetResult(), reading
}

// keepResult keeps what allUsers answered, as if it depended on a table.
func (w *world) keepResult(set *datav1.ResultSet, reading stamp.Reading, table uint32) {
	wire, err := proto.Marshal(set)
	if err != nil {
		w.tb.Fatal(err)
	}
	d, _ := w.store.Database(shopID)
	m, _ := d.Moment()
	form := string(sqlsplit.AppendNormal(nil, allUsers.sql))
	w.cache.KeepResult(reading, shopID, memory.NewResult{
		Key: memory.AppendResultKey(nil, shopID, m.SchemaVersion(), "", form, nil), Tables: []uint32{table}, Wire: wire, Work: 1 << 40,
	})
	w.settle()
}
