package exporter

import (
	"errors"
	"math"
	"strings"
	"testing"

	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/internal/sqlite"
	"github.com/nearside-dev/nearside/internal/value"
)

// pieces is a stream of what it holds.
type pieces struct {
	list []*datav1.ExportResponse
	at   int
	err  error
}

func (p *pieces) Receive() bool {
	p.at++
	return p.at <= len(p.list)
}
func (p *pieces) Msg() *datav1.ExportResponse { return p.list[p.at-1] }
func (p *pieces) Err() error                  { return p.err }

func TestRunKnowsTheEnd(t *testing.T) {
	answer := &datav1.Answer{Bookmark: "b"}
	table := &datav1.ExportResponse{
		Table: &datav1.ExportResponse_Table{Name: "t", Columns: []*datav1.Column{{Name: "a"}}},
		Rows:  []*datav1.Row{{Values: []*datav1.Value{{}}}},
	}
	cut := errors.New("cut")
	for _, test := range []struct {
		name  string
		in    pieces
		want  error
		whole bool
	}{
		{name: "whole", in: pieces{list: []*datav1.ExportResponse{{Answer: answer}, table, {Answer: answer}}}, whole: true},
		{name: "no end", in: pieces{list: []*datav1.ExportResponse{{Answer: answer}, table}}, want: errCut},
		{name: "only the first", in: pieces{list: []*datav1.ExportResponse{{Answer: answer}}}, want: errCut},
		{name: "nothing", want: errCut},
		{name: "error", in: pieces{list: []*datav1.ExportResponse{{Answer: answer}, table}, err: cut}, want: cut},
	} {
		var b strings.Builder
		s, err := Run(&test.in, SQL(&b, "d"))
		if !errors.Is(err, test.want) || strings.HasSuffix(b.String(), "COMMIT;\n") != test.whole {
			t.Errorf("%s: %+v, %v, %q", test.name, s, err, b.String())
		}
	}
	short := pieces{list: []*datav1.ExportResponse{{Answer: answer}, table, {Rows: []*datav1.Row{{}}}}}
	if _, err := Run(&short, SQL(&strings.Builder{}, "d")); err == nil {
		t.Error("a row without values was written")
	}
}

// FuzzLiteral reads literals back with SQLite.
func FuzzLiteral(f *testing.F) {
	conn, err := sqlite.Open(":memory:", sqlite.ReadWrite)
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { conn.Close() })
	for _, x := range []float64{0, 1, -1.5, 0.1, math.MaxFloat64, math.SmallestNonzeroFloat64, math.Inf(1), math.Inf(-1), 1e15, 1e23, 123456789012345678} {
		f.Add("it's", x, int64(x))
	}
	f.Add("a\x00b", 2.2250738585072014e-308, int64(math.MinInt64))
	f.Add("\xff'", 5e-324, int64(math.MaxInt64))
	f.Fuzz(func(t *testing.T, s string, x float64, i int64) {
		for _, want := range []value.Value{value.Text(s), value.Blob([]byte(s)), value.Real(x), value.Integer(i), value.Null()} {
			sql := "SELECT " + string(appendLiteral(nil, value.ToProto(want)))
			st, _, err := conn.Prepare(sql)
			if err != nil {
				t.Fatalf("%s: %v", sql, err)
			}
			if row, err := st.Step(); err != nil || !row {
				t.Fatalf("%s: %v", sql, err)
			}
			if got := st.Column(0).Clone(); !value.Equal(got, want) && !(want.Kind() == value.KindReal && got.Real() == want.Real()) {
				t.Errorf("%s reads %v, want %v", sql, got, want)
			}
			if err := st.Finalize(); err != nil {
				t.Fatal(err)
			}
		}
	})
}
