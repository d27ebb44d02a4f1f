package sqlite

import (
	"testing"

	"github.com/nearside-dev/nearside/internal/value"
)

// numbers is a table of so many rows, made up on the way.
type numbers struct{ rows int64 }

func (n *numbers) Connect([]string) (VirtualTable, Declaration, error) {
	return n, Declaration{SQL: "CREATE TABLE x(id INTEGER PRIMARY KEY, a, b, c TEXT)", IntegerKey: 0, Columns: 4}, nil
}

func (n *numbers) BestIndex(x *IndexInfo) error {
	for i := range x.Constraints() {
		if k := x.Constraint(i); k.Column == -1 && k.Operator == OpEQ && k.Usable {
			x.Use(i, 0, true)
			return x.SetPlan(Plan{Number: 1, Cost: 1, Rows: 1, Unique: true})
		}
	}
	return x.SetPlan(Plan{Cost: float64(n.rows), Rows: n.rows})
}

func (n *numbers) Open() (VirtualCursor, error) { return &numbersCursor{n: n}, nil }

type numbersCursor struct {
	n       *numbers
	at, end int64
}

var numbersText = value.Text("some text of usual length")

func (c *numbersCursor) Filter(plan int, _ string, args Args) (bool, error) {
	c.at, c.end = 0, c.n.rows
	if plan == 1 {
		c.at = args.Value(0).Integer()
		c.end = c.at + 1
	}
	return c.at < c.end, nil
}

func (c *numbersCursor) Next() (bool, error) {
	c.at++
	return c.at < c.end, nil
}

func (c *numbersCursor) Column(r Result, i int) error {
	if i == 3 {
		return r.Value(numbersText)
	}
	return r.Value(value.Integer(c.at))
}

func (c *numbersCursor) Rowid() (int64, error) { return c.at, nil }
func (c *numbersCursor) Close()                {}

func openNumbers(tb testing.TB) *Conn {
	c := open(tb, "")
	if err := c.CreateModule("numbers", &numbers{rows: 1000}); err != nil {
		tb.Fatal(err)
	}
	exec(tb, c, "CREATE VIRTUAL TABLE t USING numbers")
	return c
}

// BenchmarkVirtualTable is of scans of 1,000 rows: divide by that.
func BenchmarkVirtualTable(b *testing.B) {
	for _, bb := range []struct{ name, query string }{
		{"row", "SELECT count(*) FROM t"},
		{"row and rowid", "SELECT count(*), max(+id) FROM t"},
		{"row and integer", "SELECT count(*), max(a) FROM t"},
		{"row and 2 integers", "SELECT count(*), max(a), max(b) FROM t"},
		{"row and text", "SELECT count(*), max(c) FROM t"},
		{"1000 look-ups", "SELECT count(*) FROM t JOIN t u ON u.id = +t.id"},
	} {
		b.Run(bb.name, func(b *testing.B) {
			s := prepare(b, openNumbers(b), bb.query)
			b.ReportAllocs()
			for b.Loop() {
				if row, err := s.Step(); !row || s.ColumnInt64(0) != 1000 {
					b.Fatal(err)
				}
				if err := s.Reset(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkVirtualTableParallel has a connection for each goroutine; run it with -cpu 1,2 to see how they scale.
func BenchmarkVirtualTableParallel(b *testing.B) {
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		s := prepare(b, openNumbers(b), "SELECT count(*) FROM t JOIN t u ON u.id = +t.id")
		for pb.Next() {
			if row, err := s.Step(); !row {
				b.Error(err)
			}
			if err := s.Reset(); err != nil {
				b.Error(err)
			}
		}
	})
}
