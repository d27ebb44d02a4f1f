package keyread

import (
	"bytes"
	"cmp"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/internal/catalog"
	"github.com/nearside-dev/nearside/internal/rowcodec"
	"github.com/nearside-dev/nearside/internal/value"
)

// store is a table's rows by encoded key, as a replica has them.
type store struct {
	table   *catalog.Table
	entries map[*catalog.Index][]entry
}

type entry struct {
	key []byte
	row rowcodec.Row
}

func newStore(t *catalog.Table, rows []rowcodec.Row) *store {
	s := &store{table: t, entries: map[*catalog.Index][]entry{}}
	for _, row := range rows {
		key := rowcodec.AppendRowKey(nil, t, row)
		s.entries[nil] = append(s.entries[nil], entry{key, row})
		for i := range t.Indexes {
			ix := &t.Indexes[i]
			s.entries[ix] = append(s.entries[ix], entry{rowcodec.AppendIndexKey(nil, t, ix, row, key), row})
		}
	}
	for _, entries := range s.entries {
		slices.SortFunc(entries, func(a, b entry) int { return bytes.Compare(a.key, b.key) })
	}
	return s
}

// page answers a plan as a replica does.
func (s *store) page(tb testing.TB, plan *ListPlan) *datav1.ListResponse {
	tb.Helper()
	entries := slices.Clone(s.entries[plan.Index])
	if plan.Reverse {
		slices.Reverse(entries)
	}
	lower, upper := plan.Bounds()
	page := NewPage(plan, NewShape(s.table))
	for _, e := range entries {
		if bytes.Compare(e.key, lower) < 0 || upper != nil && bytes.Compare(e.key, upper) >= 0 {
			continue
		}
		if !page.Add(e.row, 1) {
			break
		}
	}
	res, err := page.Response()
	if err != nil {
		tb.Fatal(err)
	}
	return res
}

// compareValues orders values as SQLite does, for collation BINARY and small numbers.
func compareValues(a, b value.Value, coll catalog.Collation) int {
	class := func(v value.Value) int { return map[value.Kind]int{0: 0, 1: 1, 2: 1, 3: 2, 4: 3}[v.Kind()] }
	if c := cmp.Compare(class(a), class(b)); c != 0 {
		return c
	}
	number := func(v value.Value) float64 { return float64(v.Integer()) + v.Real() }
	text := func(v value.Value) string {
		switch coll {
		case catalog.CollationNoCase:
			return strings.ToLower(v.Text())
		case catalog.CollationRTrim:
			return strings.TrimRight(v.Text(), " ")
		default:
			return v.Text()
		}
	}
	if class(a) == 2 {
		return cmp.Compare(text(a), text(b))
	}
	return cmp.Or(cmp.Compare(number(a), number(b)), bytes.Compare(a.Bytes(), b.Bytes()))
}

// compareTo compares a row's values of parts with as many values as there are.
func compareTo(row rowcodec.Row, parts []catalog.KeyPart, values []value.Value) int {
	for i, v := range values {
		got := value.Integer(row.Rowid)
		if parts[i].Column >= 0 {
			got = row.Values[parts[i].Column]
		}
		c := compareValues(got, v, parts[i].Collation)
		if parts[i].Desc {
			c = -c
		}
		if c != 0 {
			return c
		}
	}
	return 0
}

func partValues(row rowcodec.Row, parts []catalog.KeyPart) []value.Value {
	values := make([]value.Value, len(parts))
	for i, part := range parts {
		values[i] = value.Integer(row.Rowid)
		if part.Column >= 0 {
			values[i] = row.Values[part.Column]
		}
	}
	return values
}

// naive answers a plan without limit by comparing each row.
func naive(plan *ListPlan, rows []rowcodec.Row) []rowcodec.Row {
	n := len(plan.Prefix)
	var out []rowcodec.Row
	for _, row := range rows {
		in := compareTo(row, plan.Order, plan.Prefix) == 0
		if plan.Start != nil {
			c := compareTo(row, plan.Order[n:], plan.Start)
			in = in && (c > 0 || c == 0 && !plan.StartExclusive)
		}
		if plan.End != nil {
			c := compareTo(row, plan.Order[n:], plan.End)
			in = in && (c < 0 || c == 0 && !plan.EndExclusive)
		}
		if in {
			out = append(out, row)
		}
	}
	all := slices.Concat(plan.Order, plan.Tie)
	slices.SortFunc(out, func(a, b rowcodec.Row) int { return compareTo(a, all, partValues(b, all)) })
	if plan.Reverse {
		slices.Reverse(out)
	}
	return out
}

func TestListAgainstComparison(t *testing.T) {
	cat := testCatalog()
	rng := rand.New(rand.NewPCG(1, 2))
	texts := []string{"", "a", "A", "ab", "b ", "b", "B"}
	random := func() any {
		return []any{nil, rng.IntN(4), float64(rng.IntN(4)) + 0.5, texts[rng.IntN(len(texts))], []byte{byte(rng.IntN(3))}}[rng.IntN(5)]
	}
	tables := map[string]*store{}
	rows := map[string][]rowcodec.Row{}
	for _, table := range cat.Tables {
		seen := map[string]bool{}
		for rowid := range int64(120) {
			row := rowcodec.Row{Rowid: rowid - 20}
			for i := range table.Columns {
				v := table.Columns[i].Affinity.Apply(value.FromProto(protos(random())[0]))
				if table.IntegerKey == i {
					v = value.Integer(row.Rowid)
				}
				row.Values = append(row.Values, v)
			}
			if key := string(rowcodec.AppendRowKey(nil, table, row)); !seen[key] {
				seen[key] = true
				rows[table.Name] = append(rows[table.Name], row)
			}
		}
		tables[table.Name] = newStore(table, rows[table.Name])
	}
	some := func(n int) (values []any) {
		for range 1 + rng.IntN(n) {
			values = append(values, random())
		}
		return values
	}
	answered := 0
	for range 4000 {
		table := cat.Tables[rng.IntN(len(cat.Tables))]
		req := &datav1.ListRequest{Table: table.Name, Reverse: rng.IntN(2) == 0, PageSize: uint32(1 + rng.IntN(40))}
		width := len(table.KeyColumns())
		if n := rng.IntN(len(table.Indexes) + 1); n > 0 {
			req.Index = table.Indexes[n-1].Name
			width = len(table.Indexes[n-1].Parts)
		}
		if n := rng.IntN(width + 1); n > 0 {
			req.Prefix = protos(some(n)...)
		}
		if left := width - len(req.Prefix); left > 0 {
			if rng.IntN(2) == 0 {
				req.Start = bound(rng.IntN(2) == 0, some(left)...)
			}
			if rng.IntN(2) == 0 {
				req.End = bound(rng.IntN(2) == 0, some(left)...)
			}
		}
		var got []*datav1.Row
		var want []rowcodec.Row
		for first := true; first || req.PageToken != ""; first = false {
			plan, err := PlanList(cat, req)
			if err != nil {
				t.Fatal(err)
			}
			if first {
				want = naive(plan, rows[table.Name])
			}
			res := tables[table.Name].page(t, plan)
			if req.PageToken = res.NextPageToken; req.PageToken != "" && len(res.Rows) != int(req.PageSize) {
				t.Fatalf("%v: page of %d rows is not the last", req, len(res.Rows))
			}
			got = append(got, res.Rows...)
		}
		shape := NewShape(table)
		if len(got) != len(want) {
			t.Fatalf("%v: %d rows, want %d", req, len(got), len(want))
		}
		for i := range want {
			if g, w := fmt.Sprint(got[i]), fmt.Sprint(shape.Row(want[i], 1)); g != w {
				t.Fatalf("%v: row %d is %s, want %s", req, i, g, w)
			}
		}
		answered += len(want)
	}
	if answered < 10_000 {
		t.Errorf("requests met only %d rows", answered)
	}
}

func TestPageEndsBeforeItIsTooLarge(t *testing.T) {
	cat := testCatalog()
	rows := make([]rowcodec.Row, 5)
	for i := range rows {
		rows[i] = rowcodec.Row{Rowid: int64(i), Values: []value.Value{value.TextBytes(make([]byte, 3<<20))}}
	}
	plan, err := PlanList(cat, &datav1.ListRequest{Table: "notes"})
	if err != nil {
		t.Fatal(err)
	}
	res := newStore(cat.TableByName("notes"), rows).page(t, plan)
	if len(res.Rows) != 1 || res.NextPageToken == "" {
		t.Errorf("%d rows, token %q; want one row and a token", len(res.Rows), res.NextPageToken)
	}
}

func TestBatchIsBounded(t *testing.T) {
	shape := NewShape(testCatalog().TableByName("notes"))
	batch := NewBatch(t.Context(), shape, 3)
	row := rowcodec.Row{Values: []value.Value{value.Blob(make([]byte, 30<<20))}}
	batch.AddMissing()
	for range 2 {
		if err := batch.Add(row, 1); err != nil {
			t.Fatal(err)
		}
	}
	if err := batch.Add(row, 1); err == nil {
		t.Error("90 MiB of rows fit into an answer")
	}
	if got := batch.Response(); len(got.Results) != 3 || got.Results[0].Row != nil || len(got.Columns) != 1 {
		t.Errorf("%d results of %d columns", len(got.Results), len(got.Columns))
	}
}

func TestShapeCopies(t *testing.T) {
	shape := NewShape(testCatalog().TableByName("notes"))
	for _, v := range []value.Value{
		value.TextBytes([]byte("abc")), value.TextBytes([]byte("ab\xff")), value.Blob([]byte("abc")),
	} {
		want := v.Clone()
		row := shape.Row(rowcodec.Row{Values: []value.Value{v}}, 1)
		clear(v.Bytes())
		if got := value.FromProto(row.Values[0]); !value.Equal(got, want) {
			t.Errorf("row changed with its source: %q, want %q", got.Bytes(), want.Bytes())
		}
	}
}

func BenchmarkPlanGet(b *testing.B) {
	cat := testCatalog()
	key := &datav1.Key{Values: protos(12345)}
	b.ReportAllocs()
	var buf [64]byte
	for b.Loop() {
		plan, err := PlanGet(cat, "users", key)
		if err != nil {
			b.Fatal(err)
		}
		_ = plan.AppendKey(buf[:0])
	}
}

func BenchmarkPlanList(b *testing.B) {
	cat := testCatalog()
	req := &datav1.ListRequest{Table: "users", Index: "by_age_score", Prefix: protos(30), Start: bound(true, 1.5)}
	b.ReportAllocs()
	for b.Loop() {
		plan, err := PlanList(cat, req)
		if err != nil {
			b.Fatal(err)
		}
		plan.Bounds()
	}
}

func BenchmarkRow(b *testing.B) {
	shape := NewShape(&catalog.Table{Columns: []catalog.Column{{ID: 1, Name: "id"}, {ID: 2, Name: "email"}, {ID: 3, Name: "age"}, {ID: 4, Name: "bio"}}})
	row := rowcodec.Row{Values: []value.Value{
		value.Integer(1), value.Text("user00000001@example.org"), value.Integer(42), value.Text(strings.Repeat("b", 170)),
	}}
	b.ReportAllocs()
	for b.Loop() {
		if got := shape.Row(row, 7); len(got.Values) != 4 {
			b.Fatal(got)
		}
	}
}
