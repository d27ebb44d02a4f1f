// Package historytest makes random histories of a database, for tests that compare what several copies make of one.
//
// A history is a run of transactions over few names, so that they meet each other. It holds every kind of schema change that
// SQLite has, alone and mixed with changes of rows. Many statements fail, on purpose: they must leave nothing.
package historytest

import (
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/nearside-dev/nearside/internal/catalog"
)

// History makes the transactions of one history. It is for one goroutine.
type History struct {
	r      *rand.Rand
	schema *catalog.Catalog
	fresh  int // names of tables in the making
	ran    []string
}

// New returns the history of a seed: the same one each time, if Next is told the same schemas.
func New(seed uint64) *History {
	return &History{r: rand.New(rand.NewPCG(seed, 7)), schema: &catalog.Catalog{}}
}

// Seeds returns which histories a test is to run, from and before: the usual number, or what the environment says
// (NEARSIDE_HISTORIES=2000 or 500-2000).
func Seeds(tb testing.TB, usual uint64) (from, to uint64) {
	tb.Helper()
	text := os.Getenv("NEARSIDE_HISTORIES")
	if text == "" {
		if testing.Short() {
			usual = min(usual, 3)
		}
		return 0, usual
	}
	if n, err := fmt.Sscanf(text, "%d-%d", &from, &to); n == 2 && err == nil {
		return from, to
	}
	to, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		tb.Fatalf("NEARSIDE_HISTORIES=%s: %v", text, err)
	}
	return 0, to
}

// IntN draws a number from 0 to n-1 for the test itself, so that the seed decides that too.
func (h *History) IntN(n int) int { return h.r.IntN(n) }

// String returns what there was so far, as a script.
func (h *History) String() string { return strings.Join(h.ran, "\n") }

// Next returns the statements of the next transaction. schema is the present one.
func (h *History) Next(schema *catalog.Catalog) []string {
	h.schema = schema
	var tx []string
	switch h.r.IntN(20) {
	case 0:
		tx = h.rebuild()
	case 1, 2, 3: // a migration: schema and data, mixed
		for range 2 + h.r.IntN(4) {
			if h.r.IntN(2) == 0 {
				tx = append(tx, h.change())
			} else {
				tx = append(tx, h.quiet())
			}
		}
	case 4, 5: // columns go in the middle of changes of rows
		tx = h.drops()
	case 6, 7, 8, 9:
		tx = []string{h.change()}
	default:
		for range 1 + h.r.IntN(3) {
			tx = append(tx, h.data())
		}
	}
	if len(schema.Tables) == 0 {
		tx = []string{h.create()}
	}
	h.ran = append(h.ran, "BEGIN; "+strings.Join(tx, "; ")+"; COMMIT;")
	return tx
}

func (h *History) pick(choices ...string) string { return choices[h.r.IntN(len(choices))] }

func (h *History) maybe(one string) string { return h.pick("", one) }

var (
	tableNames  = []string{"a", "b", "c", "d", `odd "name"`}
	columnNames = []string{"x", "y", "z", "w", "select"}
)

func (h *History) newTable() string { return quote(h.pick(tableNames...)) }

func (h *History) newColumn() string { return quote(h.pick(columnNames...)) }

// table draws one that is there, mostly.
func (h *History) table() *catalog.Table {
	if n := len(h.schema.Tables); n > 0 && h.r.IntN(20) > 0 {
		return h.schema.Tables[h.r.IntN(n)]
	}
	return &catalog.Table{Name: h.pick(tableNames...)}
}

// column draws one that is there, mostly.
func (h *History) column(t *catalog.Table) string {
	if n := len(t.Columns); n > 0 && h.r.IntN(12) > 0 {
		return quote(t.Columns[h.r.IntN(n)].Name)
	}
	return h.newColumn()
}

// droppable draws a column that SQLite will drop, most likely: no key and no index has it. "" where there is none.
func (h *History) droppable(t *catalog.Table) string {
	var names []string
	for i := range t.Columns {
		in := func(parts []catalog.KeyPart) bool {
			return slices.ContainsFunc(parts, func(p catalog.KeyPart) bool { return p.Column == i })
		}
		indexed := slices.ContainsFunc(t.Indexes, func(ix catalog.Index) bool { return in(ix.Parts) })
		if i != t.IntegerKey && !in(t.Key) && !indexed {
			names = append(names, quote(t.Columns[i].Name))
		}
	}
	if len(names) == 0 {
		return ""
	}
	return names[h.r.IntN(len(names))]
}

// drops is a migration that drops a column, with changes of the table's rows around it, and maybe another column of its name.
func (h *History) drops() []string {
	t := h.table()
	column := h.droppable(t)
	if column == "" {
		return []string{h.addColumn(quote(t.Name))}
	}
	left := *t
	left.Columns = slices.DeleteFunc(slices.Clone(t.Columns), func(c catalog.Column) bool { return quote(c.Name) == column })
	var tx []string
	for range h.r.IntN(3) {
		tx = append(tx, h.insert(t, h.pick("REPLACE", "IGNORE")))
	}
	if h.r.IntN(3) == 0 {
		tx = append(tx, fmt.Sprintf("UPDATE OR IGNORE %s SET %s = %s", quote(t.Name), column, h.value()))
	}
	tx = append(tx, fmt.Sprintf("ALTER TABLE %s DROP COLUMN %s", quote(t.Name), column))
	for range h.r.IntN(3) {
		tx = append(tx, h.insert(&left, h.pick("REPLACE", "IGNORE")))
	}
	switch h.r.IntN(6) {
	case 0:
		tx = append(tx, fmt.Sprintf("ALTER TABLE %s ADD COLUMN %s DEFAULT %s", quote(t.Name), column, h.value()))
		tx = append(tx, h.insert(t, "IGNORE"))
	case 1:
		if another := h.droppable(&left); another != "" {
			tx = append(tx, fmt.Sprintf("ALTER TABLE %s DROP COLUMN %s", quote(t.Name), another))
		}
	case 2:
		tx = append(tx, fmt.Sprintf("ALTER TABLE %s RENAME TO %s", quote(t.Name), h.newTable()))
	}
	return tx
}

func quote(name string) string { return `"` + strings.ReplaceAll(name, `"`, `""`) + `"` }

func (h *History) value() string {
	return h.pick("1", "1.0", "2", "2.5", "-0.0", "'text'", "'TEXT'", "'text  '", "NULL", "x'00ff'", "x''", "'it''s'", "''", "'7'", "'7.0'", "'0x1'",
		"9007199254740992", "9007199254740993", "9007199254740992.0", "9223372036854775807", "-9223372036854775808", "9223372036854775807.0",
		"1e999", "-1e999", "-1e300", "CAST(x'41ff42' AS TEXT)", "'a' || char(0) || 'B'", "zeroblob(300)", "printf('%.400c', 'x')",
		fmt.Sprint(h.r.IntN(20)), fmt.Sprint(h.r.IntN(20)), fmt.Sprintf("'%d'", h.r.IntN(20)))
}

func (h *History) collation() string {
	return h.pick("", "", " COLLATE NOCASE", " COLLATE RTRIM", " COLLATE BINARY")
}

func (h *History) columnType() string {
	return h.pick("", "TEXT", "INT", "INTEGER", "REAL", "BLOB", "NUMERIC", "VARCHAR(9)")
}

// change returns a statement that changes the schema.
func (h *History) change() string {
	t := h.table()
	name, column := quote(t.Name), h.column(t)
	switch h.r.IntN(22) {
	case 0, 1, 2:
		return h.create()
	case 3:
		return fmt.Sprintf("CREATE TABLE %s AS SELECT *%s FROM %s", h.newTable(), h.pick("", ", 1 AS one", ", rowid AS w"), name)
	case 4:
		return fmt.Sprintf("DROP TABLE %s%s", h.maybe("IF EXISTS "), name)
	case 5, 6, 7:
		return h.addColumn(name)
	case 8, 9:
		return fmt.Sprintf("ALTER TABLE %s RENAME COLUMN %s TO %s", name, column, h.newColumn())
	case 10:
		return fmt.Sprintf("ALTER TABLE %s RENAME TO %s", name, h.newTable())
	case 11, 12:
		return fmt.Sprintf("ALTER TABLE %s DROP COLUMN %s", name, column)
	case 13, 14:
		return fmt.Sprintf("CREATE %sINDEX i%d ON %s (%s%s%s, %s)", h.maybe("UNIQUE "), h.r.IntN(4), name, column, h.collation(), h.maybe(" DESC"), h.column(t))
	case 15:
		return fmt.Sprintf("CREATE %sINDEX i%d ON %s (%s%s)%s", h.maybe("UNIQUE "), h.r.IntN(4), name, h.pick(column, "lower("+column+")"), h.maybe(" DESC"),
			h.pick("", " WHERE "+column+" IS NOT NULL", " WHERE "+column+" > 3"))
	case 16:
		return fmt.Sprintf("DROP INDEX i%d", h.r.IntN(4))
	case 17:
		return fmt.Sprintf("CREATE VIEW v%d AS SELECT * FROM %s", h.r.IntN(2), name)
	case 18:
		return fmt.Sprintf("DROP VIEW v%d", h.r.IntN(2))
	case 19:
		return h.trigger(name, column)
	case 20:
		return fmt.Sprintf("DROP TRIGGER r%d", h.r.IntN(2))
	default:
		return "REINDEX"
	}
}

// create returns the making of a table of one of many kinds.
func (h *History) create() string {
	return "CREATE TABLE " + h.maybe("IF NOT EXISTS ") + h.newTable() + " " + h.definition()
}

func (h *History) definition() string {
	switch h.r.IntN(12) {
	case 0:
		return "(id INTEGER PRIMARY KEY" + h.maybe(" AUTOINCREMENT") + ", x" + h.collation() + ", y TEXT UNIQUE)"
	case 1:
		return "(x TEXT NOT NULL COLLATE NOCASE, y INT, z REAL DEFAULT 1.5, PRIMARY KEY (x, y" + h.maybe(" DESC") + ")) WITHOUT ROWID"
	case 2:
		return "(x NOT NULL PRIMARY KEY, y, g AS (y || 'g')" + h.maybe(" STORED") + ")"
	case 3:
		return "(x, y" + h.collation() + ", z REAL, w NUMERIC)"
	case 4:
		return "(x TEXT PRIMARY KEY" + h.collation() + ", y INT, z BLOB)" // NULL keys, more than one
	case 5:
		return "(id INTEGER PRIMARY KEY AUTOINCREMENT, x INT NOT NULL DEFAULT 3, y ANY) STRICT"
	case 6:
		return "(x, y, rowid TEXT, PRIMARY KEY (y COLLATE RTRIM, x DESC)) WITHOUT ROWID"
	case 7:
		return "(x INT NOT NULL, y REAL NOT NULL, z, UNIQUE (z, x), PRIMARY KEY (y DESC, x))"
	case 8:
		return "(x INTEGER PRIMARY KEY DESC, y CHECK (y IS NOT 'text'), z TEXT DEFAULT (lower('ABC')))"
	case 9:
		return "(id INTEGER PRIMARY KEY, x REFERENCES a ON DELETE " + h.pick("CASCADE", "SET NULL") + ", y, \"select\" DEFAULT CURRENT_DATE)"
	case 10:
		return "(x BLOB NOT NULL, y NOT NULL" + h.collation() + ", z AS (x + 1) VIRTUAL, PRIMARY KEY (x, y)) WITHOUT ROWID"
	default:
		return "(y, x UNIQUE ON CONFLICT REPLACE, z" + h.collation() + ", g INT AS (z * 2) STORED UNIQUE)"
	}
}

func (h *History) addColumn(table string) string {
	column, rest := h.newColumn(), ""
	switch h.r.IntN(6) {
	case 0:
	case 1:
		column, rest = "g1", " AS (x || y)" // under any other name it may be defined by itself
	case 2:
		rest = h.collation() + " NOT NULL DEFAULT " + h.value()
	case 3:
		rest = " DEFAULT (" + h.value() + ")"
	case 4:
		rest = " REFERENCES a"
	default:
		rest = h.collation() + " DEFAULT " + h.value()
	}
	return fmt.Sprintf("ALTER TABLE %s ADD COLUMN %s %s%s", table, column, h.columnType(), rest)
}

func (h *History) trigger(table, column string) string {
	other := h.table()
	name, first := quote(other.Name), h.column(other)
	var event, body string
	switch h.r.IntN(4) {
	case 0:
		event, body = "AFTER INSERT", fmt.Sprintf("INSERT OR IGNORE INTO %s (%s) VALUES (new.%s)", name, first, column)
	case 1:
		event, body = "BEFORE UPDATE", fmt.Sprintf("DELETE FROM %s WHERE %s IS old.%s", name, first, column)
	case 2:
		event, body = "AFTER DELETE", fmt.Sprintf("UPDATE OR IGNORE %s SET %s = old.%s", name, first, column)
	default:
		event, body = "BEFORE INSERT", fmt.Sprintf("SELECT RAISE(%s, 'no') WHERE new.%s IS 7", h.pick("IGNORE", "ABORT", "FAIL", "ROLLBACK"), column)
	}
	if strings.HasSuffix(body, "IS 7") {
		body = strings.Replace(body, "RAISE(IGNORE, 'no')", "RAISE(IGNORE)", 1)
	}
	return fmt.Sprintf("CREATE TRIGGER r%d %s ON %s BEGIN %s; END", h.r.IntN(2), event, table, body)
}

// data returns a statement that changes rows.
func (h *History) data() string {
	t := h.table()
	name, column := quote(t.Name), h.column(t)
	switch h.r.IntN(16) {
	case 0:
		return fmt.Sprintf("DELETE FROM %s WHERE %s IS %s", name, column, h.value())
	case 1:
		return fmt.Sprintf("DELETE FROM %s%s", name, h.pick("", " WHERE "+column+" > 5", " WHERE "+column+" IS NULL"))
	case 2, 3:
		return fmt.Sprintf("UPDATE OR %s %s SET %s = %s WHERE %s", h.pick("ABORT", "REPLACE", "IGNORE", "ROLLBACK"), name, column, h.value(),
			h.pick("1", column+" IS "+h.value(), column+" < 9"))
	case 4:
		return fmt.Sprintf("UPDATE OR %s %s SET rowid = rowid + %d", h.pick("ABORT", "REPLACE", "IGNORE"), name, 1+h.r.IntN(100))
	case 5:
		return h.pick("UPDATE sqlite_sequence SET seq = seq + 10", "DELETE FROM sqlite_sequence", "UPDATE sqlite_sequence SET seq = 'text' WHERE 0")
	case 6:
		other := h.table()
		return fmt.Sprintf("INSERT OR IGNORE INTO %s (%s) SELECT %s FROM %s", name, column, h.column(other), quote(other.Name))
	case 7:
		return fmt.Sprintf("INSERT INTO %s (%s, %s) VALUES (%s, %s) ON CONFLICT DO UPDATE SET %s = excluded.%s", name, column, h.column(t), h.value(), h.value(), column, column)
	default:
		return h.insert(t, h.pick("ABORT", "REPLACE", "IGNORE", "FAIL"))
	}
}

// quiet is data that seldom fails, so that the transaction around it survives.
func (h *History) quiet() string {
	t := h.table()
	name, column := quote(t.Name), h.column(t)
	switch h.r.IntN(5) {
	case 0:
		return fmt.Sprintf("DELETE FROM %s WHERE %s IS %s", name, column, h.value())
	case 1:
		return fmt.Sprintf("UPDATE OR IGNORE %s SET %s = %s", name, column, h.value())
	default:
		return h.insert(t, h.pick("REPLACE", "IGNORE"))
	}
}

// insert fills all columns that can be filled, or some.
func (h *History) insert(t *catalog.Table, conflict string) string {
	var columns []string
	for i := range t.Columns {
		if t.Columns[i].Generated == catalog.GeneratedNo && h.r.IntN(8) > 0 {
			columns = append(columns, quote(t.Columns[i].Name))
		}
	}
	if len(columns) == 0 {
		return fmt.Sprintf("INSERT OR %s INTO %s DEFAULT VALUES", conflict, quote(t.Name))
	}
	var rows []string
	for range 1 + h.r.IntN(4) {
		values := make([]string, len(columns))
		for i := range values {
			values[i] = h.value()
		}
		rows = append(rows, "("+strings.Join(values, ", ")+")")
	}
	return fmt.Sprintf("INSERT OR %s INTO %s (%s) VALUES %s", conflict, quote(t.Name), strings.Join(columns, ", "), strings.Join(rows, ", "))
}

// rebuild is how SQLite's manual has a table changed in ways that ALTER TABLE cannot.
func (h *History) rebuild() []string {
	t := h.table()
	h.fresh++
	fresh := fmt.Sprintf("new_%d", h.fresh)
	var from []string
	for i := range t.Columns {
		if len(from) < 2 && t.Columns[i].Generated == catalog.GeneratedNo {
			from = append(from, quote(t.Columns[i].Name))
		}
	}
	if len(from) < 2 {
		from = []string{"1", "2"}
	}
	tx := []string{
		fmt.Sprintf("CREATE TABLE %s %s", fresh, h.definition()),
		fmt.Sprintf("INSERT OR IGNORE INTO %s (x, y) SELECT %s FROM %s", fresh, strings.Join(from, ", "), quote(t.Name)),
		"DROP TABLE " + quote(t.Name),
		fmt.Sprintf("ALTER TABLE %s RENAME TO %s", fresh, quote(t.Name)),
	}
	if h.r.IntN(2) == 0 {
		tx = append(tx, fmt.Sprintf("CREATE INDEX i%d ON %s (x, y DESC)", h.r.IntN(4), quote(t.Name)))
	}
	if h.r.IntN(2) == 0 {
		tx = append(tx, fmt.Sprintf("INSERT OR IGNORE INTO %s (x, y) VALUES (%s, %s)", quote(t.Name), h.value(), h.value()))
	}
	return append([]string{"PRAGMA defer_foreign_keys = ON"}, tx...)
}
