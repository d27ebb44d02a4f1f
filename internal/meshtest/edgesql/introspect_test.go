package edgesql_test

import (
	"testing"

	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
)

// Columns of views are counted when they are first asked for, in a connection that knows nothing of them yet.
func TestTableListFirst(t *testing.T) {
	s := newSides(t)
	s.use("views")
	for _, sql := range []string{
		"CREATE TABLE t (a, b)", "CREATE VIEW v AS SELECT a, b, a AS c FROM t", "CREATE VIEW broken AS SELECT * FROM nowhere", "CREATE VIEW counting AS SELECT changes() AS n, load_extension('x') AS m",
		"CREATE VIEW deep AS SELECT * FROM v JOIN v AS w", "CREATE VIEW own AS SELECT * FROM _nearside_meta", "CREATE VIEW schema AS SELECT name FROM sqlite_schema",
	} {
		_ = s.write(sql) // some are not allowed
	}
	for _, query := range []string{"PRAGMA table_list", "SELECT * FROM pragma_table_list", "SELECT * FROM schema", "PRAGMA table_info(broken)", "PRAGMA table_info(deep)"} {
		if got := s.compare(sameOrder, query); got != datav1.Source_SOURCE_REPLICA {
			t.Logf("%s: answered by %v", query, got)
		}
	}
}

// introspection are queries about the schema, which the region answers to the byte and in the primary's order.
var introspection = []string{
	"SELECT * FROM sqlite_schema", "SELECT rowid, * FROM sqlite_master", "SELECT name FROM main.sqlite_schema WHERE type = 'index' ORDER BY rowid DESC",
	"SELECT sql FROM sqlite_master WHERE name = 'u'", "SELECT count(*), max(rowid), typeof(rootpage) FROM sqlite_schema",
	"SELECT m.name, p.name FROM sqlite_schema m, pragma_table_info(m.name) p",
	"SELECT m.name, p.* FROM sqlite_schema m JOIN pragma_table_xinfo(m.name) p WHERE m.type IN ('table', 'view')",
	"SELECT m.name, l.*, x.* FROM sqlite_schema m, pragma_index_list(m.name) l, pragma_index_xinfo(l.name) x WHERE m.type = 'table'",
	"SELECT l.name, i.name FROM pragma_index_list('u') l JOIN pragma_index_info(l.name) i ORDER BY 1, 2",
	"SELECT m.name, f.* FROM sqlite_schema m, pragma_foreign_key_list(m.name) f",
	"SELECT t.name, (SELECT count(*) FROM pragma_table_info(t.name)) FROM pragma_table_list t",
	"SELECT u.id, p.name FROM u, pragma_table_info('u') p WHERE p.cid = u.id",
	"SELECT name FROM pragma_table_info WHERE arg = 'u' AND schema = 'main'", "SELECT rowid, arg, schema, name FROM pragma_table_info('k', 'main')",
	"SELECT * FROM pragma_table_info(NULL)", "SELECT * FROM pragma_table_info('nothing')", "SELECT * FROM pragma_table_info(5)", "SELECT * FROM pragma_table_info(x'75')",
	"SELECT * FROM pragma_table_info('_nearside_meta')", "SELECT * FROM pragma_table_info('adults')", "SELECT * FROM pragma_table_info('sqlite_schema')",
	"SELECT * FROM pragma_table_info('pragma_table_info')", "SELECT * FROM pragma_table_xinfo('json_each')", "SELECT * FROM pragma_table_list", "SELECT * FROM pragma_table_list('u')",
	"SELECT * FROM pragma_collation_list", "SELECT * FROM pragma_function_list", "SELECT * FROM pragma_compile_options", "SELECT name FROM pragma_function_list WHERE builtin = 1 AND name LIKE 'json%'",
	"WITH t AS (SELECT name FROM sqlite_schema WHERE type = 'table') SELECT t.name, count(*) FROM t, pragma_table_info(t.name) GROUP BY 1",
	"PRAGMA table_info(u)", "PRAGMA main.table_info(u)", "PRAGMA table_info = u", "PRAGMA table_xinfo(g)", "PRAGMA table_list", "PRAGMA table_list(u)", "PRAGMA index_list('u')",
	"PRAGMA index_info(u_name)", "PRAGMA index_xinfo(u_age)", "PRAGMA index_xinfo(u_expr)", "PRAGMA foreign_key_list(child)", "PRAGMA collation_list", "PRAGMA function_list",
	"PRAGMA compile_options", "PRAGMA table_info(nowhere)", "PRAGMA Table_Info('pets')", "PRAGMA table_info(totals)", "PRAGMA index_list(k)", "PRAGMA index_list(o)", "PRAGMA index_list(many)",
	"PRAGMA table_info(sqlite_sequence)", "PRAGMA table_xinfo(pets)", "PRAGMA table_info",
}

func TestIntrospection(t *testing.T) {
	s := newSides(t)
	s.use("introspection")
	check := func(t *testing.T) {
		t.Helper()
		for _, query := range introspection {
			if got := s.compare(sameOrder, query); got != datav1.Source_SOURCE_REPLICA {
				t.Errorf("%s: answered by %v", query, got)
			}
		}
	}
	for _, sql := range shapesSchema {
		s.mustWrite(sql)
	}
	s.mustWrite(`CREATE TABLE child (id INTEGER PRIMARY KEY, u INTEGER REFERENCES u (id) ON DELETE CASCADE, k TEXT, FOREIGN KEY (k) REFERENCES k DEFERRABLE INITIALLY DEFERRED)`)
	s.mustWrite(`CREATE TABLE many (a UNIQUE, b UNIQUE ON CONFLICT REPLACE, c, UNIQUE (b, c), CHECK (a <> b))`)
	s.mustWrite(`CREATE TRIGGER tr AFTER INSERT ON child BEGIN DELETE FROM many; END`)
	check(t)
	for _, sql := range []string{
		"DROP TABLE pk_desc", "ALTER TABLE many RENAME TO more", "CREATE INDEX more_c ON more (c)", "ALTER TABLE more RENAME COLUMN c TO d", "DROP INDEX u_age", "DROP VIEW totals",
		"ALTER TABLE u ADD COLUMN later TEXT COLLATE NOCASE DEFAULT 'x''y'", "CREATE TABLE many (x)", "DROP TABLE pets", "DROP TRIGGER tr", "CREATE INDEX u_age ON u (age)",
		"CREATE VIEW totals AS SELECT 1 AS one", "CREATE TABLE \"select\" (\"from\" PRIMARY KEY) WITHOUT ROWID",
	} {
		s.mustWrite(sql)
		check(t)
	}
	t.Run("of the file", func(t *testing.T) {
		for _, query := range []string{
			"PRAGMA page_count", "PRAGMA page_size", "PRAGMA schema_version", "PRAGMA user_version", "PRAGMA application_id", "PRAGMA encoding", "PRAGMA foreign_keys",
			"SELECT * FROM pragma_page_count", "PRAGMA foreign_key_check", "SELECT * FROM pragma_foreign_key_check", "PRAGMA integrity_check", "PRAGMA quick_check",
		} {
			if got := s.compare(sameOrder, query); got != datav1.Source_SOURCE_PRIMARY {
				t.Errorf("%s: answered by %v", query, got)
			}
		}
	})
	t.Run("errors", func(*testing.T) {
		for _, query := range []string{
			"PRAGMA nowhere.table_info(u)", "SELECT * FROM pragma_table_info('u', 'nowhere')", "PRAGMA journal_mode", "PRAGMA journal_mode = DELETE", "PRAGMA writable_schema = ON",
			"PRAGMA module_list", "PRAGMA database_list", "SELECT * FROM pragma_module_list", "PRAGMA table_info(u); SELECT 1", "PRAGMA", "PRAGMA table_info(", "SELECT no FROM pragma_table_info('u')",
			"SELECT * FROM pragma_nothing", "DELETE FROM sqlite_schema", "PRAGMA user_version = 5", "SELECT * FROM sqlite_dbpage", "SELECT * FROM pragma_table_info('u', 'main', 3)",
		} {
			s.compare(sameOrder, query)
		}
	})
}

// generatedSchema are tables with virtual generated columns: of all types and affinities, of each other, indexed.
var generatedSchema = []string{
	`CREATE TABLE g (a INTEGER, b INTEGER AS (a * 2) VIRTUAL, c TEXT AS ('s' || a) STORED, d AS (b + 1), e REAL AS (a) NOT NULL, f TEXT COLLATE NOCASE AS (upper(c) || d), j HIDDEN AS (a IS NULL))`,
	`CREATE TABLE w (k TEXT NOT NULL, n INTEGER, doc, v AS (json_extract(doc, '$.v')), t VARCHAR(5) AS (typeof(doc)), blob BLOB AS (CAST(doc AS BLOB)), PRIMARY KEY (k, n DESC)) WITHOUT ROWID`,
	`CREATE TABLE p (id INTEGER PRIMARY KEY AUTOINCREMENT, x ANY, y INT AS (id * 10) UNIQUE, z TEXT AS (hex(x))) STRICT`,
	`CREATE TABLE q (a, b CHECK (a > 5 OR b IS NULL), n NUMERIC AS (a || ''), CHECK (n IS NOT 'never'))`,
	`CREATE TABLE fails (a INTEGER)`,
	`CREATE INDEX g_b ON g (b)`, `CREATE UNIQUE INDEX w_v ON w (v, k)`, `CREATE INDEX g_f ON g (f DESC) WHERE d > 3`,
	`CREATE VIEW gv AS SELECT a, b, f FROM g WHERE d > 1`,
	`CREATE TRIGGER never BEFORE DELETE ON p BEGIN SELECT RAISE(ABORT, 'no'); END`,
	`CREATE TRIGGER counts AFTER INSERT ON g BEGIN INSERT INTO q (a) VALUES (NEW.b); END`,
	`INSERT INTO g (a) VALUES (1), (2), (3), (-5), (9007199254740993)`,
	`INSERT INTO w (k, n, doc) VALUES ('a', 1, '{"v": 1}'), ('a', 2, '{"v": "x"}'), ('b', 9, NULL), ('c', 0, '{"v": 1.50}'), ('', -1, '{"v":[1,2]}')`,
	`INSERT INTO p (x) VALUES (1), ('two'), (x'33'), (4.5), (NULL)`,
	`INSERT INTO q VALUES (10, 1), ('0x10', NULL), ('1e3', 'b'), (x'31', NULL), ('01.50', NULL)`,
	`INSERT INTO fails VALUES (1), (-2)`, `ALTER TABLE fails ADD COLUMN b AS (abs(a))`,
	// Of one value there is no absolute one, and adding the column does not look at it.
	`CREATE TABLE fails_later (a INTEGER)`, `INSERT INTO fails_later VALUES (1), (-9223372036854775808)`, `ALTER TABLE fails_later ADD COLUMN b AS (abs(a))`,
	`ALTER TABLE p ADD COLUMN late TEXT AS ('l' || y)`,
}

func TestVirtualColumns(t *testing.T) {
	s := newSides(t)
	s.use("generated")
	for _, sql := range generatedSchema {
		s.mustWrite(sql)
	}
	for _, query := range []string{
		"SELECT * FROM g", "SELECT rowid, * FROM g WHERE b = 4", "SELECT f FROM g WHERE f = 'S19'", "SELECT f FROM g WHERE f = 's1' || 3", "SELECT typeof(b), typeof(d), typeof(e), typeof(f), e FROM g",
		"SELECT a FROM g WHERE b > 2", "SELECT a FROM g WHERE d IN (3, 5)", "SELECT * FROM gv", "SELECT j FROM g", "SELECT count(b), sum(d), max(f) FROM g", "SELECT count(*) FROM g WHERE e > 1",
		"SELECT x.a, y.a FROM g x JOIN g y ON y.b = x.d + 1", "SELECT x.a, y.a FROM g x JOIN g y ON y.d = x.d", "SELECT x.a, p.y FROM g x LEFT JOIN p ON p.y = x.b * 5",
		"SELECT * FROM w", "SELECT k, v, typeof(v) FROM w WHERE v = 1", "SELECT hex(blob), t FROM w", "SELECT k FROM w WHERE k = 'a' AND n = 2 AND v = 'x'", "SELECT v FROM w WHERE v IS NULL",
		"SELECT * FROM p", "SELECT y, late FROM p WHERE y = 30", "SELECT y FROM p WHERE y BETWEEN 20 AND 40", "SELECT id FROM p WHERE z = '31'", "SELECT * FROM q", "SELECT n, typeof(n) FROM q",
		"SELECT sum(b) OVER (ORDER BY a) FROM g", "SELECT d, count(*) FROM g GROUP BY d", "SELECT DISTINCT t FROM w", "SELECT b FROM g UNION SELECT y FROM p", "SELECT * FROM fails",
		"SELECT (SELECT f FROM g WHERE a = p.id) FROM p", "WITH r AS (SELECT b, d FROM g) SELECT * FROM r WHERE b = 2", "SELECT lower(f) LIKE 's%' FROM g",
	} {
		if got := s.compare(sameRows, query); got != datav1.Source_SOURCE_REPLICA {
			t.Errorf("%s: answered by %v", query, got)
		}
	}
	for _, query := range []string{"SELECT f FROM g ORDER BY f", "SELECT b FROM g ORDER BY b DESC LIMIT 2", "SELECT y FROM p ORDER BY y DESC"} {
		if got := s.compare(sameOrder, query); got != datav1.Source_SOURCE_REPLICA {
			t.Errorf("%s: answered by %v", query, got)
		}
	}
	for _, query := range []string{
		"SELECT b FROM fails_later WHERE a = 1", "SELECT a FROM fails_later", "SELECT b FROM fails_later", "SELECT * FROM fails_later ORDER BY a",
	} {
		s.compare(sameRows, query)
	}
}
