package sqlite

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/nearside-dev/nearside/internal/value"
)

// memory is a module whose tables hold rows in memory, in the order of their first column.
type memory struct {
	declaration Declaration
	rows        [][]value.Value

	asked []string // what BestIndex was asked, last
	fail  string   // the method that fails
	panic string   // the method that panics
}

var errMemory = errors.New("memory failed")

func (m *memory) at(method string) error {
	if m.panic == method {
		panic(method)
	}
	if m.fail == method {
		return errMemory
	}
	return nil
}

func (m *memory) Connect(args []string) (VirtualTable, Declaration, error) {
	if want := []string{"7", "'a b'"}; !cmp.Equal(args, want) {
		return nil, Declaration{}, fmt.Errorf("arguments %q", args)
	}
	return m, m.declaration, m.at("Connect")
}

func (m *memory) BestIndex(x *IndexInfo) error {
	m.asked = nil
	if x.NotIndexed() {
		m.asked = append(m.asked, "not indexed")
	}
	plan := Plan{Cost: 1000, Rows: 1000}
	for i := range x.Constraints() {
		k := x.Constraint(i)
		text := fmt.Sprintf("%d %d %v %s %d", k.Column, k.Operator, k.Usable, x.Collation(i), x.Conversion(i))
		if v, ok := x.RHS(i); ok {
			text += " " + v.Kind().String()
		}
		m.asked = append(m.asked, text)
		if k.Column == 0 && k.Operator == OpEQ && k.Usable && plan.Number == 0 {
			plan = Plan{Number: 1, Text: "key", Cost: 1, Rows: 1, Unique: true}
			if x.In(i, false) && x.In(i, true) {
				plan = Plan{Number: 2, Text: "keys", Cost: 10, Rows: 10}
			}
			x.Use(i, 0, true)
		}
	}
	for i := range x.OrderBys() {
		o := x.OrderBy(i)
		m.asked = append(m.asked, fmt.Sprintf("order %d %v %d", o.Column, o.Desc, x.Distinct()))
		plan.Ordered = x.OrderBys() == 1 && o.Column == 0 && !o.Desc && plan.Number == 0
	}
	for i := range m.rows[0] {
		if x.Used(i) {
			m.asked = append(m.asked, fmt.Sprintf("used %d", i))
		}
	}
	return errors.Join(m.at("BestIndex"), x.SetPlan(plan))
}

func (m *memory) Open() (VirtualCursor, error) { return &memoryCursor{memory: m}, m.at("Open") }

type memoryCursor struct {
	*memory

	rows [][]value.Value
}

func (c *memoryCursor) Filter(plan int, text string, args Args) (bool, error) {
	c.rows = c.memory.rows
	var keys []value.Value
	switch {
	case plan == 1 && text == "key" && args.Len() == 1:
		keys = append(keys, args.Value(0))
	case plan == 2 && text == "keys":
		if err := args.In(0, func(v value.Value) bool { keys = append(keys, v.Clone()); return true }); err != nil {
			return false, err
		}
	case plan == 0:
		return len(c.rows) > 0, c.at("Filter")
	default:
		return false, fmt.Errorf("plan %d %q", plan, text)
	}
	c.rows = nil
	for _, row := range c.memory.rows {
		for _, key := range keys {
			if value.Equal(row[0], key) {
				c.rows = append(c.rows, row)
			}
		}
	}
	return len(c.rows) > 0, c.at("Filter")
}

func (c *memoryCursor) Next() (bool, error) {
	c.rows = c.rows[1:]
	return len(c.rows) > 0, c.at("Next")
}

func (c *memoryCursor) Column(r Result, i int) error {
	return errors.Join(c.at("Column"), r.Value(c.rows[0][i]))
}

func (c *memoryCursor) Rowid() (int64, error) { return c.rows[0][0].Integer(), c.at("Rowid") }

func (c *memoryCursor) Close() {}

func newMemory() *memory {
	m := &memory{declaration: Declaration{
		SQL:        "CREATE TABLE x(id INTEGER PRIMARY KEY, name TEXT COLLATE NOCASE, b)",
		IntegerKey: 0, Columns: 3,
	}}
	for i := range 5 {
		m.rows = append(m.rows, []value.Value{
			value.Integer(int64(i)), value.Text(strings.Repeat("n", i*2000)), value.Blob([]byte{byte(i), 0}),
		})
	}
	m.rows[0][1], m.rows[1][2] = value.Null(), value.Real(1.5)
	return m
}

func openMemory(tb testing.TB, m *memory) *Conn {
	c := open(tb, "")
	if err := c.CreateModule("memory", m); err != nil {
		tb.Fatal(err)
	}
	exec(tb, c, "CREATE VIRTUAL TABLE t USING memory(7, 'a b')")
	return c
}

// answer returns the rows of a query as text.
func answer(tb testing.TB, c *Conn, sql string) string {
	tb.Helper()
	s := prepare(tb, c, sql)
	var out []string
	for {
		row, err := s.Step()
		if err != nil {
			tb.Fatal(err)
		}
		if !row {
			break
		}
		var cells []string
		for i := range s.ColumnCount() {
			cells = append(cells, s.Column(i).Text())
			if k := s.ColumnKind(i); k == value.KindInteger {
				cells[i] = fmt.Sprint(s.ColumnInt64(i))
			}
		}
		out = append(out, strings.Join(cells, ","))
	}
	if err := s.Finalize(); err != nil {
		tb.Fatal(err)
	}
	return strings.Join(out, ";")
}

func TestVirtualTable(t *testing.T) {
	m := newMemory()
	c := openMemory(t, m)
	exec(t, c, "CREATE TABLE n(i INTEGER, s TEXT, b); INSERT INTO n VALUES(3,'3','3'); CREATE VIEW v AS SELECT id FROM t WHERE id > 3")
	for _, tt := range []struct{ query, want string }{
		{"SELECT id, length(name), typeof(name), hex(b), typeof(b) FROM t",
			"0,,null,0000,blob;1,2000,text,312E35,real;2,4000,text,0200,blob;3,6000,text,0300,blob;4,8000,text,0400,blob"},
		{"SELECT rowid, id, oid FROM t WHERE id = '2'", "2,2,2"},
		{"SELECT id FROM t WHERE id IN (1, 3, 9) ORDER BY id", "1;3"},
		{"SELECT id FROM t ORDER BY id", "0;1;2;3;4"},
		{"SELECT id FROM t WHERE id < 3 ORDER BY id DESC", "2;1;0"},
		{"SELECT n.s, length(name) FROM n JOIN t ON t.id = n.i", "3,6000"},
		{"SELECT id FROM v", "4"},
		{"SELECT a.id FROM t a, t b WHERE a.id = b.id AND b.id > 2 LIMIT 1", "3"},
	} {
		if got := answer(t, c, tt.query); got != tt.want {
			t.Errorf("%s: got %q, want %q", tt.query, got, tt.want)
		}
	}
	s := prepare(t, c, "SELECT rowid FROM t")
	if s.ColumnName(0) != "id" || s.ColumnDeclType(0) != "INTEGER" {
		t.Errorf("rowid is called %q %q", s.ColumnName(0), s.ColumnDeclType(0))
	}
	if n := len(c.cursors.all) - len(c.cursors.free); n != 0 {
		t.Errorf("%d cursors open", n)
	}
}

func TestBestIndexIsTold(t *testing.T) {
	m := newMemory()
	c := openMemory(t, m)
	exec(t, c, "CREATE TABLE n(i INTEGER, s TEXT, b)")
	const eq, gt, le = 2, 4, 8
	for _, tt := range []struct{ query, want string }{
		{"SELECT name FROM t WHERE id = 5", fmt.Sprintf("-1 %d true BINARY %d integer|used 1", eq, ConvertNumeric)},
		{"SELECT 1 FROM t WHERE name > 5", fmt.Sprintf("1 %d true NOCASE %d integer|used 1", gt, ConvertText)},
		{"SELECT 1 FROM t WHERE name <= ?1", fmt.Sprintf("1 %d true NOCASE %d|used 1", le, ConvertText)},
		{"SELECT 1 FROM t WHERE name = 'x' COLLATE BINARY", fmt.Sprintf("1 %d true BINARY %d|used 1", eq, ConvertText)},
		{"SELECT 1 FROM t WHERE b = 5", fmt.Sprintf("2 %d true BINARY %d integer|used 2", eq, ConvertNothing)},
		{"SELECT 1 FROM t WHERE b = +5", fmt.Sprintf("2 %d true BINARY %d integer|used 2", eq, ConvertNothing)},
		{"SELECT 1 FROM t WHERE name = (SELECT i FROM n)", fmt.Sprintf("1 %d true NOCASE %d|used 1", eq, ConvertNumeric)},
		{"SELECT 1 FROM t WHERE name IN (SELECT i FROM n)", fmt.Sprintf("1 %d true NOCASE %d|used 1", eq, ConvertNumeric)},
		{"SELECT 1 FROM t WHERE name IN (SELECT s FROM n)", fmt.Sprintf("1 %d true NOCASE %d|used 1", eq, ConvertNothing)},
		{"SELECT 1 FROM t WHERE b IN (1, 2)", fmt.Sprintf("2 %d true BINARY %d|used 2", eq, ConvertNothing)},
		{"SELECT 1 FROM n CROSS JOIN t WHERE name = i", fmt.Sprintf("1 %d true NOCASE %d|used 1", eq, ConvertNumeric)},
		{"SELECT 1 FROM n CROSS JOIN t WHERE name = n.b", fmt.Sprintf("1 %d true NOCASE %d|used 1", eq, ConvertNothing)},
		{"SELECT 1 FROM n CROSS JOIN t WHERE t.b = s", fmt.Sprintf("2 %d true BINARY %d|used 2", eq, ConvertNothing)},
		{"SELECT 1 FROM n CROSS JOIN t WHERE t.b = i", fmt.Sprintf("2 %d true BINARY %d|used 2", eq, ConvertNumeric)},
		{"SELECT 1 FROM t WHERE b = CAST('1' AS INT)", fmt.Sprintf("2 %d true BINARY %d integer|used 2", eq, ConvertUnknown)},
		{"SELECT 1 FROM t WHERE (name, b) > ('a', 1)", fmt.Sprintf("1 32 true NOCASE %d|used 1|used 2", ConvertUnknown)},
		{"SELECT DISTINCT b FROM t", "order 2 false 2|used 2"},
		{"SELECT b FROM t GROUP BY b", "order 2 false 1|used 2"},
		{"SELECT count(*) FROM t", ""},
		{"SELECT count(*) FROM t NOT INDEXED", "not indexed"},
		{"SELECT count(*) FROM n NOT INDEXED, t", ""},
		{"SELECT count(*) FROM n, t NOT INDEXED", "not indexed"},
		{"SELECT rowid, id FROM t ORDER BY id DESC", "order -1 true 0"},
	} {
		s := prepare(t, c, tt.query)
		if got := strings.Join(m.asked, "|"); got != tt.want {
			t.Errorf("%s: told %q, want %q", tt.query, got, tt.want)
		}
		if err := s.Finalize(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestVirtualTableFails(t *testing.T) {
	for _, method := range []string{"BestIndex", "Open", "Filter", "Next", "Column", "Rowid"} {
		t.Run(method, func(t *testing.T) {
			m := newMemory()
			c := openMemory(t, m)
			run := func() error {
				s, _, err := c.Prepare("SELECT rowid, name FROM t")
				if err != nil {
					return err
				}
				defer func() { _ = s.Finalize() }()
				for {
					if row, err := s.Step(); !row {
						return err
					}
				}
			}
			m.fail = method
			if err := run(); !errors.Is(err, errMemory) {
				t.Errorf("got %v", err)
			}
			m.fail, m.panic = "", method
			func() {
				defer func() {
					if p, _ := recover().(*CallbackPanic); p == nil || p.Value != method {
						t.Errorf("no panic: %v", p)
					}
				}()
				_ = run()
			}()
			m.panic = ""
			if err := run(); err != nil {
				t.Errorf("afterwards: %v", err)
			}
		})
	}
	m := newMemory()
	m.fail = "Connect"
	c := open(t, "")
	if err := c.CreateModule("memory", m); err != nil {
		t.Fatal(err)
	}
	if err := c.Exec("CREATE VIRTUAL TABLE t USING memory(7, 'a b')"); !errors.Is(err, errMemory) {
		t.Errorf("got %v", err)
	}
	m.fail, m.declaration.Columns = "", 4
	if err := c.Exec("CREATE VIRTUAL TABLE t USING memory(7, 'a b')"); err == nil {
		t.Error("another number of columns is no error")
	}
}
