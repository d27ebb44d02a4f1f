package edgesql_test

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"go.uber.org/goleak"
	"google.golang.org/protobuf/types/known/durationpb"

	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/gen/nearside/data/v1/datav1connect"
	"github.com/nearside-dev/nearside/internal/meshtest"
	"github.com/nearside-dev/nearside/internal/value"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	east = "us-east-1"
	west = "eu-west-1"
)

// sides are the primary and a region away from it.
type sides struct {
	t        *testing.T
	mesh     *meshtest.Mesh
	primary  datav1connect.DataServiceClient
	region   datav1connect.DataServiceClient
	database string
	mark     string // of the last write
}

func newSides(t *testing.T) *sides {
	t.Helper()
	m := meshtest.Start(t, meshtest.Options{Regions: []string{east, west}})
	return &sides{
		t: t, mesh: m, primary: datav1connect.NewDataServiceClient(m.HTTP(), m.PrimaryURL()), region: m.Client(west),
	}
}

// use makes a database and uses it from now on.
func (s *sides) use(database string) {
	s.t.Helper()
	s.mesh.Create(database)
	s.database, s.mark = database, ""
}

// write runs a statement at the primary and reports whether it was right.
func (s *sides) write(sql string) error {
	res, err := s.primary.Execute(context.Background(), connect.NewRequest(&datav1.ExecuteRequest{
		Database: s.database, Statement: &datav1.Statement{Sql: sql},
	}))
	if err != nil {
		return err
	}
	s.mark = res.Msg.GetAnswer().GetBookmark()
	return nil
}

func (s *sides) mustWrite(sql string) {
	s.t.Helper()
	if err := s.write(sql); err != nil {
		s.t.Fatalf("%s: %v", sql, err)
	}
}

// query runs a query on one side, after the last write.
func (s *sides) query(client datav1connect.DataServiceClient, st *datav1.Statement) (*datav1.QueryResponse, error) {
	res, err := client.Query(context.Background(), connect.NewRequest(&datav1.QueryRequest{
		Database: s.database, Statement: st,
		Consistency: &datav1.Consistency{Bookmark: s.mark, MaxWait: durationpb.New(10 * time.Second)},
	}))
	if err != nil {
		return nil, err
	}
	return res.Msg, nil
}

// comparison says how two answers are to be the same.
type comparison int

const (
	sameRows  comparison = iota // in any order
	sameOrder                   // row by row
	sameSense                   // in any order, where equal values may be told apart only by their spelling: 1 and 1.0, 'a' and 'A'
	sameSort                    // sameSense, in order
)

// compare runs a query on both sides and returns the region's source.
func (s *sides) compare(how comparison, sql string, parameters ...value.Value) datav1.Source {
	s.t.Helper()
	st := &datav1.Statement{Sql: sql}
	for _, p := range parameters {
		st.Parameters = append(st.Parameters, value.ToProto(p))
	}
	want, wantErr := s.query(s.primary, st)
	got, err := s.query(s.region, st)
	if wantErr != nil || err != nil {
		if fmt.Sprint(err) != fmt.Sprint(wantErr) {
			s.t.Errorf("%s: %s\nregion:  %v\nprimary: %v", s.database, sql, err, wantErr)
		}
		return datav1.Source_SOURCE_UNSPECIFIED
	}
	if g, w := columns(got), columns(want); g != w {
		s.t.Errorf("%s: %s\nregion:  columns %s\nprimary: columns %s", s.database, sql, g, w)
	}
	g, w := rows(how, got), rows(how, want)
	if !slices.Equal(g, w) {
		s.t.Errorf("%s: %s %v\nregion:  %d rows %.600q\nprimary: %d rows %.600q", s.database, sql, parameters, len(g), g, len(w), w)
	}
	return got.GetAnswer().GetSource()
}

func columns(r *datav1.QueryResponse) string {
	var out []string
	for _, c := range r.GetResult().GetColumns() {
		out = append(out, c.GetName()+" "+c.GetDeclaredType())
	}
	return strings.Join(out, ", ")
}

func rows(how comparison, r *datav1.QueryResponse) []string {
	out := make([]string, 0, len(r.GetResult().GetRows()))
	for _, row := range r.GetResult().GetRows() {
		var cells []string
		for _, p := range row.GetValues() {
			cells = append(cells, text(value.FromProto(p), how))
		}
		out = append(out, strings.Join(cells, "|"))
	}
	if how == sameRows || how == sameSense {
		slices.SortFunc(out, cmp.Compare[string])
	}
	return out
}

// text writes a value so that equal ones are the same text. Reals may differ in the last digits, by the order of a sum.
func text(v value.Value, how comparison) string {
	spelled := how == sameRows || how == sameOrder
	switch v.Kind() {
	case value.KindInteger:
		return fmt.Sprint(v.Integer())
	case value.KindReal:
		if f := v.Real(); !spelled && f == math.Trunc(f) && f >= -1<<63 && f < 1<<63 {
			return fmt.Sprint(int64(f))
		}
		return fmt.Sprintf("r%.12g", v.Real())
	case value.KindText:
		if !spelled {
			return fmt.Sprintf("t%q", strings.TrimRight(strings.ToLower(v.Text()), " "))
		}
		return fmt.Sprintf("t%q", v.Text())
	case value.KindBlob:
		return fmt.Sprintf("x%x", v.Bytes())
	default:
		return "NULL"
	}
}
