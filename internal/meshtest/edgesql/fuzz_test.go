package edgesql_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
)

// fuzzFor is how long TestFuzz goes on with seeds of its own; NEARSIDE_FUZZ_SQL sets it, for a run of minutes or hours.
func fuzzFor(t *testing.T) time.Duration {
	t.Helper()
	text := os.Getenv("NEARSIDE_FUZZ_SQL")
	if text == "" {
		return 0
	}
	d, err := time.ParseDuration(text)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// fuzzFrom is the first seed; NEARSIDE_FUZZ_SEED sets it.
func fuzzFrom(t *testing.T) uint64 {
	t.Helper()
	text := os.Getenv("NEARSIDE_FUZZ_SEED")
	if text == "" {
		return 1
	}
	seed, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return seed
}

// TestFuzz compares answers to random queries over random schemas, rows and indexes. The seed of a difference names its
// database. The first twelve are always run; the second of them found that PRAGMA table_list did not count a view's columns.
func TestFuzz(t *testing.T) {
	s := newSides(t)
	until, asked, answered := time.Now().Add(fuzzFor(t)), 0, 0
	first := fuzzFrom(t)
	for seed := first; seed < first+12 || time.Now().Before(until); seed++ {
		f := &fuzz{r: rand.New(rand.NewPCG(seed, 6))}
		s.use("fuzz" + strconv.FormatUint(seed, 10))
		f.schema(s)
		for range 60 {
			how, query := f.query()
			query = spared(query)
			asked++
			if s.compare(how, query) == datav1.Source_SOURCE_REPLICA {
				answered++
			}
			if f.r.IntN(25) == 0 {
				_ = s.write(f.change()) // it may be refused
			}
		}
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
	t.Logf("%d queries, %d answered by the region", asked, answered)
	if answered < asked*9/10 {
		t.Errorf("%d of %d queries answered by the region", answered, asked)
	}
}

// columnLike is the LIKE of a column.
var columnLike = regexp.MustCompile(`\b(\w+\.)?\w+ LIKE`)

// spared writes in other ways what SQLite itself gets wrong where there is a RIGHT or FULL JOIN, and virtual tables do not:
//   - With EXISTS it loses rows, where it makes a join of that with an automatic index, which the part of the RIGHT JOIN that has
//     no match does not fill (seed 940: the answer at the primary has no row with DISTINCT, and two without).
//   - With key LIKE 'a%' in the ON, where key is an INTEGER PRIMARY KEY or the rowid, it loses all rows without a match, which it
//     has with +key LIKE 'a%' (seeds 910768 and 920017).
func spared(query string) string {
	if !strings.Contains(query, "RIGHT JOIN") && !strings.Contains(query, "FULL JOIN") {
		return query
	}
	query = columnLike.ReplaceAllStringFunc(query, func(like string) string {
		if strings.HasSuffix(like, "NOT LIKE") {
			return like
		}
		return "+" + like
	})
	return strings.ReplaceAll(query, "EXISTS (SELECT 1 FROM", "0 < (SELECT count(*) FROM")
}

type fuzz struct {
	r      *rand.Rand
	tables []fuzzTable
	views  []fuzzTable
}

type fuzzTable struct {
	name    string
	columns []string // the generated ones last
	given   int      // how many are not generated; 0 for a view
	rowid   bool
}

func pick[T any](r *rand.Rand, all ...T) T { return all[r.IntN(len(all))] }

// literals are values in all their storage classes, many of them alike.
var literals = []string{
	"NULL", "0", "1", "2", "-1", "5", "10", "9007199254740992", "9007199254740993", "9223372036854775807", "-9223372036854775808",
	"0.0", "1.0", "1.5", "-0.5", "5.0", "9007199254740992.0", "9223372036854775807.0", "-9223372036854775808.0", "1e300", "-1e300", "0.1",
	"''", "'a'", "'A'", "'a '", "'b'", "'B  '", "'ab'", "'5'", "'05'", "' 5'", "'5.0'", "'1e0'", "'0.1'", "'x'", "'é'", "'9007199254740993'",
	"x''", "x'00'", "x'35'", "x'61'", "x'ff'", "CAST(x'ff' AS TEXT)", "CAST(x'6100' AS TEXT)", "CAST(x'610062' AS TEXT)", "CAST(x'80fe' AS TEXT)",
}

func (f *fuzz) literal() string { return pick(f.r, literals...) }

func (f *fuzz) schema(s *sides) {
	for i := range 1 + f.r.IntN(3) {
		t := fuzzTable{name: fmt.Sprintf("t%d", i), rowid: true}
		var columns []string
		strict := f.r.IntN(6) == 0
		for c := range 2 + f.r.IntN(4) {
			name := fmt.Sprintf("c%d", c)
			t.columns = append(t.columns, name)
			kind := pick(f.r, "", "INTEGER", "INT", "TEXT", "TEXT", "REAL", "NUMERIC", "BLOB", "VARCHAR(10)", "DATETIME")
			if strict {
				kind = pick(f.r, "INTEGER", "TEXT", "REAL", "ANY", "ANY", "BLOB")
			}
			column := name + " " + kind + pick(f.r, "", "", "", " COLLATE NOCASE", " COLLATE RTRIM")
			columns = append(columns, column)
		}
		t.given = len(t.columns)
		options := ""
		switch f.r.IntN(7) {
		case 0:
			columns[0] = "c0 INTEGER PRIMARY KEY"
		case 1:
			columns[0] += " PRIMARY KEY"
		case 2:
			columns[0] += " NOT NULL PRIMARY KEY"
		case 3:
			columns = append(columns, "PRIMARY KEY (c1 DESC, c0)")
			options, t.rowid = "WITHOUT ROWID", false
		case 4:
			columns = append(columns, "PRIMARY KEY (c0 COLLATE "+pick(f.r, "BINARY", "NOCASE", "RTRIM")+")")
			options, t.rowid = "WITHOUT ROWID", false
		case 5:
			columns[0] += " NOT NULL"
			columns[1] += " NOT NULL"
			columns = append(columns, "PRIMARY KEY (c0, c1)")
		}
		key := len(columns)
		for g := range f.r.IntN(3) {
			name := fmt.Sprintf("g%d", g)
			kind := pick(f.r, "", "INTEGER", "TEXT", "REAL", "NUMERIC", "BLOB")
			if strict {
				kind = "ANY"
			}
			column := name + " " + kind + pick(f.r, "", "", " COLLATE NOCASE") + " AS (" + f.generated(t.columns) + ")" + pick(f.r, "", " VIRTUAL", " STORED")
			t.columns = append(t.columns, name)
			columns = slices.Insert(columns, min(key, t.given)+g, column)
		}
		if strict {
			options = strings.TrimSuffix("STRICT, "+options, ", ")
		}
		s.mustWrite("CREATE TABLE " + t.name + " (" + strings.Join(columns, ", ") + ") " + options)
		f.tables = append(f.tables, t)
		for range 8 + f.r.IntN(30) {
			_ = s.write(f.insert(t)) // a key may be there
		}
		for x := range f.r.IntN(4) {
			parts := make([]string, 1+f.r.IntN(3))
			for p := range parts {
				parts[p] = pick(f.r, t.columns...) + pick(f.r, "", "", " COLLATE NOCASE", " COLLATE RTRIM", " COLLATE BINARY") + pick(f.r, "", " DESC")
			}
			if f.r.IntN(8) == 0 {
				parts[0] = pick(f.r, "lower(c0)", "length(c1)", "c0 || c1", "typeof(c0)")
			}
			index := fmt.Sprintf("CREATE %s INDEX x%d_%d ON %s (%s)", pick(f.r, "", "", "", "UNIQUE"), i, x, t.name, strings.Join(parts, ", "))
			if f.r.IntN(6) == 0 {
				index += " WHERE " + pick(f.r, "c1 > 0", "c1 > 'a'", "c0 IS NOT NULL", "typeof(c1) = 'text'")
			}
			_ = s.write(index) // not unique
		}
	}
	if f.r.IntN(2) == 0 {
		t := f.tables[0]
		s.mustWrite("CREATE VIEW v0 AS SELECT c0, c1, " + pick(f.r, t.columns...) + " AS x FROM " + t.name + pick(f.r, "", " WHERE c0 IS NOT NULL", " WHERE c1 > 0"))
		f.views = append(f.views, fuzzTable{name: "v0", columns: []string{"c0", "c1", "x"}})
	}
}

// generated is an expression over columns.
func (f *fuzz) generated(columns []string) string {
	a, b := pick(f.r, columns...), pick(f.r, columns...)
	return pick(f.r, a+" || "+b, "typeof("+a+")", "length("+a+")", a+" = "+b, "coalesce("+a+", "+b+")", "lower("+a+")", a+" + 1", "CAST("+a+" AS INTEGER)", "hex("+a+")",
		"CASE WHEN "+a+" > "+b+" THEN "+a+" END", "CAST("+a+" AS TEXT)", a)
}

func (f *fuzz) insert(t fuzzTable) string {
	values := make([]string, t.given)
	for i := range values {
		values[i] = f.literal()
	}
	return "INSERT OR IGNORE INTO " + t.name + " (" + strings.Join(t.columns[:t.given], ", ") + ") VALUES (" + strings.Join(values, ", ") + ")"
}

func (f *fuzz) change() string {
	t := pick(f.r, f.tables...)
	switch f.r.IntN(7) {
	case 5:
		return "DROP INDEX IF EXISTS x" + strconv.Itoa(f.r.IntN(2)) + "_" + strconv.Itoa(f.r.IntN(3))
	case 6:
		return "CREATE INDEX y" + strconv.Itoa(f.r.IntN(1000)) + " ON " + t.name + " (" + pick(f.r, t.columns...) + pick(f.r, "", " DESC", " COLLATE NOCASE") + ")"
	case 0:
		return "DELETE FROM " + t.name + " WHERE " + pick(f.r, t.columns...) + " = " + f.literal()
	case 1, 2:
		return "UPDATE OR IGNORE " + t.name + " SET " + pick(f.r, t.columns[:t.given]...) + " = " + f.literal() + " WHERE " +
			pick(f.r, t.columns...) + " > " + f.literal()
	case 3:
		return "ALTER TABLE " + t.name + " ADD COLUMN d" + strconv.Itoa(f.r.IntN(1000)) + " TEXT DEFAULT " + pick(f.r, "NULL", "'d'", "7")
	default:
		return f.insert(t)
	}
}

// column returns a column of one of the tables, under its alias.
func (f *fuzz) column(from []fuzzTable) string {
	i := f.r.IntN(len(from))
	if from[i].rowid && f.r.IntN(8) == 0 {
		return fmt.Sprintf("a%d.rowid", i)
	}
	return fmt.Sprintf("a%d.%s", i, pick(f.r, from[i].columns...))
}

func (f *fuzz) operand(from []fuzzTable) string {
	switch f.r.IntN(12) {
	case 0, 1, 2:
		return f.column(from)
	case 3:
		return "+" + f.column(from)
	case 4:
		return "CAST(" + f.literal() + " AS " + pick(f.r, "TEXT", "INTEGER", "REAL", "BLOB") + ")"
	case 5:
		return "(SELECT max(" + pick(f.r, f.tables[0].columns...) + ") FROM " + f.tables[0].name + ")"
	default:
		return f.literal()
	}
}

func (f *fuzz) condition(from []fuzzTable, depth int) string {
	if depth > 0 {
		switch f.r.IntN(5) {
		case 0:
			return "(" + f.condition(from, depth-1) + " OR " + f.condition(from, depth-1) + ")"
		case 1:
			return "(" + f.condition(from, depth-1) + " AND " + f.condition(from, depth-1) + ")"
		case 2:
			return "NOT " + f.condition(from, depth-1)
		}
	}
	c := f.column(from)
	switch f.r.IntN(14) {
	case 0:
		return c + " IN (" + f.literal() + ", " + f.literal() + ", " + f.operand(from) + ")"
	case 1:
		t := pick(f.r, f.tables...)
		return c + pick(f.r, " IN ", " IN ", " NOT IN ") + "(SELECT " + pick(f.r, t.columns...) + " FROM " + t.name + ")"
	case 2:
		return c + " BETWEEN " + f.operand(from) + " AND " + f.operand(from)
	case 3:
		return c + pick(f.r, " LIKE ", " GLOB ", " NOT LIKE ") + pick(f.r, "'a%'", "'A*'", "'a*'", "'5%'", "'%'", "''", "'b_'")
	case 4:
		return c + pick(f.r, " IS NULL", " IS NOT NULL")
	case 5:
		return c + pick(f.r, " IS ", " IS NOT ") + f.operand(from)
	case 6:
		return "(" + c + ", " + f.column(from) + ")" + pick(f.r, " = ", " > ", " <= ") + "(" + f.operand(from) + ", " + f.literal() + ")"
	case 7:
		return c + pick(f.r, " = ", " < ") + f.operand(from) + pick(f.r, " COLLATE NOCASE", " COLLATE RTRIM", " COLLATE BINARY")
	case 8:
		t := pick(f.r, f.tables...)
		return "EXISTS (SELECT 1 FROM " + t.name + " e WHERE e." + pick(f.r, t.columns...) + " = " + c + ")"
	default:
		return c + pick(f.r, " = ", " = ", " = ", " > ", " >= ", " < ", " <= ", " <> ") + f.operand(from)
	}
}

// from returns the FROM clause of one to three tables.
func (f *fuzz) from() (text string, from []fuzzTable) {
	for i := range pick(f.r, 1, 1, 2, 2, 3) {
		t := pick(f.r, append(f.views, f.tables...)...)
		from = append(from, t)
		if i == 0 {
			text = t.name + " a0"
			continue
		}
		join := pick(f.r, " JOIN ", " JOIN ", " LEFT JOIN ", " CROSS JOIN ", " RIGHT JOIN ", " FULL JOIN ")
		text += join + t.name + " a" + strconv.Itoa(i)
		on := fmt.Sprintf("a%d.%s = %s", i, pick(f.r, t.columns...), f.column(from[:i]))
		if f.r.IntN(3) == 0 {
			on += " AND " + f.condition(from, 0)
		}
		text += " ON " + on
	}
	return text, from
}

func (f *fuzz) query() (comparison, string) {
	text, from := f.from()
	where := ""
	if f.r.IntN(6) > 0 {
		where = " WHERE " + f.condition(from, f.r.IntN(3))
	}
	a, b := f.column(from), f.column(from)
	switch f.r.IntN(20) {
	case 9:
		t := pick(f.r, f.tables...)
		return sameSense, "WITH c(x, y) AS " + pick(f.r, "", "MATERIALIZED ", "NOT MATERIALIZED ") + "(SELECT " + a + ", " + b + " FROM " + text + where + ") SELECT c.x, count(*), count(e." +
			pick(f.r, t.columns...) + ") FROM c LEFT JOIN " + t.name + " e ON e." + pick(f.r, t.columns...) + " = c.y GROUP BY c.x"
	case 10:
		return sameRows, "SELECT * FROM (SELECT " + a + " AS x, " + b + " AS y FROM " + text + where + ") s WHERE s.x" + pick(f.r, " = ", " > ", " <= ", " IS ") + f.literal()
	case 11:
		return sameRows, "SELECT " + a + ", rank() OVER w, count(*) OVER w, dense_rank() OVER w, min(typeof(" + b + ")) OVER w FROM " + text + where +
			" WINDOW w AS (PARTITION BY typeof(" + b + ") ORDER BY hex(" + a + "), typeof(" + a + ")" + pick(f.r, "", " DESC") + ")"
	case 12:
		return sameRows, "SELECT typeof(" + a + "), count(*) FILTER (WHERE " + f.condition(from, 0) + "), group_concat(hex(" + b + "), ',' ORDER BY hex(" + b + ")), count(DISTINCT hex(" + b + ")) FROM " +
			text + where + " GROUP BY 1 HAVING count(*) > " + strconv.Itoa(f.r.IntN(3))
	case 13:
		t := pick(f.r, f.tables...)
		return sameSense, "SELECT " + a + " FROM " + text + where + pick(f.r, " UNION ALL ", " UNION ", " EXCEPT ") + "SELECT " + b + " FROM " + text +
			pick(f.r, " EXCEPT ", " INTERSECT ", " UNION ") + "SELECT " + pick(f.r, t.columns...) + " FROM " + t.name
	case 14:
		t := pick(f.r, f.tables...)
		return sameRows, "SELECT " + a + ", (SELECT count(*) FROM " + t.name + " e WHERE e." + pick(f.r, t.columns...) + pick(f.r, " = ", " > ", " IS ") + b + ") FROM " + text + where
	case 15:
		return sameRows, "SELECT CASE WHEN " + f.condition(from, 1) + " THEN " + a + " ELSE " + b + " END, coalesce(" + a + ", " + b + "), " + a + " || '', " + a + " + " + b + ", nullif(" + a + ", " + b + ") FROM " +
			text + where
	case 16:
		t := pick(f.r, f.tables...)
		c := pick(f.r, t.columns...)
		return sameRows, "WITH RECURSIVE r(n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM r WHERE n < 6) SELECT r.n, e." + c + ", typeof(e." + c + ") FROM r LEFT JOIN " + t.name + " e ON e." + c + " = r.n"
	case 17:
		return sameOrder, pick(f.r, "SELECT m.name, p.* FROM sqlite_schema m, pragma_table_xinfo(m.name) p", "SELECT * FROM sqlite_schema", "PRAGMA table_list",
			"SELECT l.*, x.* FROM sqlite_schema m, pragma_index_list(m.name) l, pragma_index_xinfo(l.name) x")
	case 18:
		t := pick(f.r, f.tables...)
		return sameSense, "SELECT " + a + " FROM " + text + where + " GROUP BY " + a + ", " + b + " HAVING " + b + " IN (SELECT " + pick(f.r, t.columns...) + " FROM " + t.name + ")"
	case 19:
		return sameRows, "SELECT count(*), sum(length(" + a + ")), max(length(" + b + ")) FROM (SELECT DISTINCT " + pick(f.r, "hex("+a+") AS q, ", "") + "typeof(" + a + ") AS p FROM " + text + where + ") d, " + text

	case 0:
		return sameOrder, "SELECT count(*), count(" + a + "), total(length(" + b + ")), count(DISTINCT " + a + ") FROM " + text + where
	case 1:
		return sameSense, "SELECT " + a + ", count(*), count(" + b + ") FROM " + text + where + " GROUP BY " + a
	case 2:
		return sameSense, "SELECT DISTINCT " + a + " FROM " + text + where
	case 3:
		return sameSort, "SELECT min(" + a + "), max(" + a + ") FROM " + text + where
	case 4:
		direction := pick(f.r, "", " DESC")
		return sameSort, "SELECT " + a + ", " + b + " FROM " + text + where + " ORDER BY " + a + direction + ", " + b +
			pick(f.r, "", " DESC") + pick(f.r, "", " LIMIT 3", " LIMIT 5 OFFSET 2")
	case 5:
		return sameSort, "SELECT " + a + " FROM " + text + where + " ORDER BY " + a + pick(f.r, "", " DESC", " COLLATE NOCASE", " NULLS LAST") +
			" LIMIT " + strconv.Itoa(f.r.IntN(6))
	case 6:
		return sameRows, "SELECT " + a + ", row_number() OVER (PARTITION BY typeof(" + b + ") ORDER BY hex(" + a + "), typeof(" + a + ")) FROM " + text + where
	case 7:
		return sameSense, "SELECT " + a + " FROM " + text + where + pick(f.r, " UNION ", " EXCEPT ", " INTERSECT ") + "SELECT " +
			pick(f.r, f.tables[0].columns...) + " FROM " + f.tables[0].name
	default:
		return sameRows, "SELECT * FROM " + text + where
	}
}
