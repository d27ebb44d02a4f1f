package edgesql_test

import (
	"strings"
	"testing"

	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/internal/value"
)

var shapesSchema = []string{
	`CREATE TABLE u (id INTEGER PRIMARY KEY, name TEXT COLLATE NOCASE, age INTEGER, score REAL, data BLOB, note)`,
	`CREATE TABLE o (u INTEGER NOT NULL, n INTEGER NOT NULL, total NUMERIC, at TEXT, PRIMARY KEY (u, n DESC)) WITHOUT ROWID`,
	`CREATE TABLE k (code TEXT NOT NULL PRIMARY KEY, v TEXT, tag TEXT COLLATE RTRIM)`,
	`CREATE TABLE nk (code TEXT PRIMARY KEY, v)`,
	`CREATE TABLE r (a, b TEXT, "odd ""name" VARCHAR(10) DEFAULT 'x')`,
	`CREATE TABLE g (a INTEGER, b INTEGER AS (a * 2) VIRTUAL, c TEXT AS ('s' || a) STORED)`,
	`CREATE TABLE st (i INTEGER PRIMARY KEY, a ANY, t TEXT) STRICT`,
	`CREATE TABLE pk_desc (id INTEGER PRIMARY KEY DESC, v)`,
	`CREATE TABLE pets (id INTEGER PRIMARY KEY AUTOINCREMENT, hidden_note HIDDEN)`,
	`CREATE INDEX u_name ON u (name)`,
	`CREATE INDEX u_age ON u (age DESC, score)`,
	`CREATE INDEX u_note ON u (note)`,
	`CREATE INDEX o_at ON o (at)`,
	`CREATE INDEX u_partial ON u (score) WHERE age > 30`,
	`CREATE INDEX u_expr ON u (lower(name))`,
	`CREATE INDEX r_b ON r (b COLLATE NOCASE)`,
	`CREATE UNIQUE INDEX k_tag ON k (tag)`,
	`CREATE VIEW adults AS SELECT id, name, age FROM u WHERE age >= 18`,
	`CREATE VIEW totals (who, sum) AS SELECT name, sum(total) FROM u JOIN o ON o.u = u.id GROUP BY u.id`,
	`INSERT INTO u VALUES (1, 'Ann', 30, 1.5, x'00ff', 5), (2, 'bob', NULL, 2.0, NULL, '5'), (3, 'BOB', 17, -1, x'', '05'),
	  (4, NULL, 99, 9007199254740993, x'35', 5.0), (-7, 'Zoë', 9223372036854775807, 1e300, 'text', NULL), (10, '', 30, 0.0, 7, x'35')`,
	`INSERT INTO o VALUES (1, 1, 10, '2024-01-01'), (1, 2, 12.5, '2024-02-01'), (2, 1, 'many', '2024-01-15'), (3, 9, NULL, NULL)`,
	`INSERT INTO k VALUES ('a', '1', 'x'), ('A', '2', 'y '), ('b ', '3', 'z'), (CAST(x'ff00' AS TEXT), '4', NULL), ('5', '5', '5')`,
	`INSERT INTO nk VALUES (NULL, 1), (NULL, 2), ('a', 3), ('b', x'00')`,
	`INSERT INTO r VALUES (1, 'one', 'a'), (1.0, 'ONE', 'b'), ('1', 'One ', 'c'), (x'31', NULL, 'd'), (NULL, '1', 'x')`,
	`INSERT INTO g (a) VALUES (1), (2), (NULL)`,
	`INSERT INTO st VALUES (1, 1, 'a'), (2, '1', 'b'), (3, 1.0, NULL), (4, x'31', '1')`,
	`INSERT INTO pk_desc VALUES (3, 'c'), (1, 'a'), (NULL, 'n')`,
	`INSERT INTO pets (hidden_note) VALUES ('p')`,
	`ALTER TABLE u ADD COLUMN added TEXT DEFAULT 'filled'`,
	`INSERT INTO u VALUES (20, 'new', 1, 1, NULL, NULL, 'given')`,
}

// shapes are queries that the region answers itself.
var shapes = []struct {
	how   comparison
	query string
}{
	{sameRows, "SELECT * FROM u"},
	{sameRows, "SELECT rowid, oid, _rowid_, u.rowid, * FROM u WHERE id = '1'"},
	{sameRows, "SELECT rowid FROM u WHERE rowid IN (1, '2', 3.0, 'x', NULL)"},
	{sameRows, "SELECT rowid, * FROM k"},
	{sameRows, "SELECT rowid, code FROM k WHERE rowid > 2"},
	{sameRows, "SELECT rowid, * FROM nk"},
	{sameRows, "SELECT rowid, * FROM r WHERE rowid BETWEEN 2 AND 4.5"},
	{sameRows, "SELECT rowid, * FROM pk_desc"},
	{sameRows, "SELECT * FROM u WHERE name = 'bob'"},
	{sameRows, "SELECT * FROM u WHERE name = 'bob' COLLATE BINARY"},
	{sameRows, "SELECT id FROM u WHERE name LIKE 'b%'"},
	{sameRows, "SELECT id FROM u WHERE name GLOB 'B*'"},
	{sameRows, "SELECT id FROM u WHERE name > 'B' AND name <= 'new'"},
	{sameRows, "SELECT id FROM u WHERE name > 5"},
	{sameRows, "SELECT id FROM u WHERE name IS NULL"},
	{sameRows, "SELECT id FROM u WHERE name IS NOT NULL"},
	{sameRows, "SELECT id FROM u WHERE name IS 'BOB'"},
	{sameRows, "SELECT id FROM u WHERE note = 5"},
	{sameRows, "SELECT id FROM u WHERE note = '5'"},
	{sameRows, "SELECT a.id, b.id FROM u a JOIN u b ON a.note = b.age"},
	{sameRows, "SELECT a.id, b.id FROM u a JOIN u b ON a.age = b.note"},
	{sameRows, "SELECT k.code, u.id FROM u JOIN k ON k.code = u.note"},
	{sameRows, "SELECT k.code, st.i FROM st JOIN k ON k.code = st.a"},
	{sameRows, "SELECT k.code, st.i FROM k JOIN st ON st.a = k.code"},
	{sameRows, "SELECT k.code, o.n FROM o JOIN k ON k.code = o.n"},
	{sameRows, "SELECT id FROM u WHERE score = 9007199254740993"},
	{sameRows, "SELECT id FROM u WHERE age >= 30 AND age < 9223372036854775807"},
	{sameRows, "SELECT id FROM u WHERE age = 9223372036854775807.0"},
	{sameSort, "SELECT age, score FROM u ORDER BY age DESC, score"},
	{sameSort, "SELECT age FROM u ORDER BY age LIMIT 3 OFFSET 1"},
	{sameSort, "SELECT name FROM u ORDER BY name DESC LIMIT 4"},
	{sameOrder, "SELECT id FROM u ORDER BY id DESC LIMIT 3"},
	{sameOrder, "SELECT u, n FROM o ORDER BY u, n DESC"},
	{sameOrder, "SELECT u, n FROM o ORDER BY u DESC, n"},
	{sameOrder, "SELECT n FROM o WHERE u = 1 ORDER BY n"},
	{sameRows, "SELECT * FROM o WHERE u = 1 AND n = 2"},
	{sameRows, "SELECT * FROM o WHERE u = 1 AND n > 1"},
	{sameRows, "SELECT * FROM o WHERE (u, n) > (1, 1)"},
	{sameRows, "SELECT * FROM o WHERE (u, n) IN ((1, 1), (2, 1), (3, 3))"},
	{sameRows, "SELECT * FROM o WHERE at < '2024-02-01'"},
	{sameRows, "SELECT total FROM o WHERE u = 1 OR at = '2024-01-15'"},
	{sameRows, "SELECT * FROM k WHERE tag = 'y'"},
	{sameRows, "SELECT * FROM k WHERE code = CAST(x'ff00' AS TEXT)"},
	{sameRows, "SELECT * FROM k WHERE code = 5"},
	{sameRows, "SELECT * FROM nk WHERE code IS NULL"},
	{sameRows, "SELECT * FROM nk WHERE code = 'a'"},
	{sameRows, "SELECT * FROM r WHERE b = 'one'"},
	{sameRows, "SELECT * FROM r WHERE b = 'one' COLLATE NOCASE"},
	{sameRows, "SELECT a, typeof(a) FROM r WHERE a = 1"},
	{sameRows, "SELECT i, typeof(a) FROM st WHERE a = 1"},
	{sameRows, "SELECT c, a FROM g WHERE c = 's1'"},
	{sameRows, "SELECT count(*) FROM g"},
	{sameRows, "SELECT count(*) FROM u"},
	{sameRows, "select\n COUNT ( * ) AS n FROM main.\"u\" AS x ;"},
	{sameRows, "SELECT count(*) FROM adults"},
	{sameRows, "SELECT count(*) FROM [o] -- all"},
	{sameRows, "SELECT (SELECT count(*) FROM u) + count(*) FROM o"},
	{sameRows, "SELECT count(*), count(age), sum(age < 50), min(age), max(id), avg(score) FROM u WHERE age < 100"},
	{sameRows, "SELECT min(id), max(id) FROM u"},
	{sameRows, "SELECT max(age) FROM u"},
	{sameRows, "SELECT age, count(*) FROM u GROUP BY age HAVING count(*) > 0"},
	{sameSense, "SELECT DISTINCT name FROM u"},
	{sameRows, "SELECT DISTINCT age FROM u"},
	{sameOrder, "SELECT DISTINCT age FROM u ORDER BY age DESC"},
	{sameOrder, "SELECT DISTINCT u FROM o ORDER BY u"},
	{sameOrder, "SELECT DISTINCT u FROM o ORDER BY u DESC"},
	{sameOrder, "SELECT DISTINCT u, n FROM o ORDER BY u, n DESC"},
	{sameRows, "SELECT DISTINCT u FROM o WHERE n > 1"},
	{sameRows, "SELECT DISTINCT u FROM o WHERE u + n > 2"},
	{sameRows, "SELECT DISTINCT u FROM o WHERE u % 2 = 1 LIMIT 2 OFFSET 0"},
	{sameRows, "SELECT DISTINCT a.u, b.age FROM o a JOIN u b ON b.id = a.u"},
	{sameRows, "SELECT DISTINCT at FROM o"},
	{sameRows, "SELECT count(DISTINCT u), count(DISTINCT at) FROM o"},
	{sameRows, "SELECT id FROM u WHERE id IN (SELECT u FROM o) AND age NOT IN (SELECT at FROM o)"},
	{sameRows, "SELECT id FROM u WHERE name IN (SELECT at FROM o) OR id NOT IN (SELECT \"u\" FROM [o])"},
	{sameRows, "SELECT id, id IN (SELECT u FROM o) FROM u"},
	{sameRows, "SELECT u FROM o GROUP BY u"},
	{sameRows, "SELECT u.id, o.n FROM u LEFT JOIN o ON o.u = u.id"},
	{sameRows, "SELECT u.id, o.n FROM u LEFT JOIN o ON o.u = u.id WHERE o.n IS NULL"},
	{sameRows, "SELECT u.id, o.n FROM o RIGHT JOIN u ON o.u = u.id AND o.n > 1"},
	{sameRows, "SELECT u.id, k.code FROM u FULL JOIN k ON k.v = u.id"},
	{sameRows, "SELECT id FROM u WHERE EXISTS (SELECT 1 FROM o WHERE o.u = u.id AND total > 5)"},
	{sameRows, "SELECT id, (SELECT max(n) FROM o WHERE o.u = u.id) FROM u"},
	{sameRows, "SELECT id FROM u WHERE id NOT IN (SELECT u FROM o)"},
	{sameRows, "SELECT * FROM adults"},
	{sameRows, "SELECT * FROM adults a JOIN totals t ON t.who = a.name"},
	{sameRows, "SELECT sum FROM totals WHERE who = 'ANN'"},
	{sameOrder, "WITH RECURSIVE s(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM s WHERE i < 5) SELECT s.i, u.name FROM s LEFT JOIN u ON u.id = s.i"},
	{sameRows, "WITH s AS MATERIALIZED (SELECT * FROM u WHERE age > 1) SELECT count(*) FROM s"},
	{sameRows, "SELECT id, row_number() OVER (ORDER BY id), sum(age) OVER (ORDER BY id ROWS 1 PRECEDING) FROM u WHERE age < 100"},
	{sameRows, "SELECT u, rank() OVER (PARTITION BY u ORDER BY n) FROM o"},
	{sameRows, "SELECT id FROM u UNION SELECT u FROM o"},
	{sameRows, "SELECT id FROM u EXCEPT SELECT u FROM o"},
	{sameRows, "SELECT id FROM u INTERSECT SELECT n FROM o"},
	{sameOrder, "SELECT 1 UNION ALL SELECT id FROM u ORDER BY 1"},
	{sameOrder, "VALUES (1, 'a'), (2, x'00')"},
	{sameOrder, "SELECT 9007199254740993, 1e999, '', x'', NULL, 0.1"},
	{sameOrder, "SELECT json_extract('{\"a\":[1,2]}', '$.a[1]'), json_object('a', 1)"},
	{sameOrder, "SELECT key, value FROM json_each('[1,\"x\",null]')"},
	{sameRows, "SELECT u.id, j.value FROM u, json_each('[1,2,3]') j WHERE u.id = j.value"},
	{sameRows, "SELECT added, typeof(added) FROM u"},
	{sameRows, "SELECT \"odd \"\"name\" FROM r"},
	{sameRows, "SELECT u.* FROM u NOT INDEXED WHERE name = 'ann'"},
	{sameRows, "SELECT hidden_note FROM pets WHERE 0"},
	{sameRows, "SELECT * FROM pets"},
	{sameRows, "SELECT p.hidden_note, q.id FROM pets p JOIN pets q USING (hidden_note)"},
	{sameRows, "SELECT CASE WHEN age > 20 THEN 'old' ELSE 'young' END, count(*) FROM u GROUP BY 1"},
	{sameRows, "SELECT a.id, b.id FROM u a, u b WHERE a.age = b.age AND a.id < b.id"},
	{sameRows, "SELECT group_concat(id ORDER BY id) FROM u"},
	{sameRows, "SELECT date('2024-03-01', '-1 day'), upper('x'), printf('%05.2f', 3.14159)"},
}

func TestShapes(t *testing.T) {
	s := newSides(t)
	s.use("shapes")
	for _, sql := range shapesSchema {
		s.mustWrite(sql)
	}
	for _, q := range shapes {
		source := s.compare(q.how, q.query)
		if source != datav1.Source_SOURCE_REPLICA {
			t.Errorf("%s: answered by %v", q.query, source)
		}
	}
	t.Run("parameters", func(t *testing.T) {
		for _, v := range []value.Value{
			value.Null(), value.Integer(1), value.Integer(30), value.Real(1), value.Real(1.5), value.Text("1"), value.Text("30"),
			value.Text("bob"), value.Text("05"), value.Text(""), value.Blob([]byte("5")), value.Blob(nil), value.TextBytes([]byte{0xff, 0}),
		} {
			for _, column := range []string{"u.id", "u.name", "u.age", "u.score", "u.data", "u.note", "k.code", "k.tag", "st.a", "nk.code", "o.u", "r.b"} {
				for _, operator := range []string{"=", "IS", "<", ">=", "<>"} {
					table, _, _ := strings.Cut(column, ".")
					if got := s.compare(sameRows, "SELECT * FROM "+table+" WHERE "+column+" "+operator+" ?", v); got != datav1.Source_SOURCE_REPLICA {
						t.Errorf("%s %s: answered by %v", column, operator, got)
					}
				}
			}
		}
	})
	t.Run("elsewhere", func(t *testing.T) {
		for _, query := range []string{
			"PRAGMA page_count", "SELECT * FROM pragma_page_size", "PRAGMA integrity_check", "EXPLAIN QUERY PLAN SELECT * FROM u WHERE id = 1", "SELECT * FROM u INDEXED BY u_name WHERE name = 'ann'",
			"SELECT changes(), last_insert_rowid()", "SELECT * FROM sqlite_sequence",
		} {
			if got := s.compare(sameOrder, query); got != datav1.Source_SOURCE_PRIMARY {
				t.Errorf("%s: answered by %v", query, got)
			}
		}
	})
	t.Run("errors", func(*testing.T) {
		for _, query := range []string{
			"SELEC 1", "SELECT 1 FROM", "SELECT 'x", "SELECT # FROM u", "SELECT nothing FROM u", "SELECT * FROM nowhere", "SELECT rowid FROM o",
			"SELECT abs(-9223372036854775808)", "SELECT sum(9223372036854775807) FROM u", "SELECT ?1, ?2", "SELECT 1; SELECT 2", "",
			"INSERT INTO u DEFAULT VALUES", "WITH s AS (SELECT 1) DELETE FROM u", "SELECT * FROM _nearside_meta", "SELECT load_extension('x')",
			"ATTACH 'x' AS y", "SELECT json('{')", "SELECT u.id FROM u a", "SELECT id FROM u, u", "SELECT likely(1, 2)",
			"CREATE TEMP TABLE t (a)", "SELECT zeroblob(100000000)", "SELECT total_changes()",
		} {
			s.compare(sameOrder, query)
		}
	})
}
