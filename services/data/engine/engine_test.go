package engine

import (
	"context"
	"fmt"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/internal/sqlrun"
)

func TestCommitsAreVersionsAndSurviveReopening(t *testing.T) {
	f := newFixture(t)
	f.exec("CREATE TABLE t (id INTEGER PRIMARY KEY, a TEXT)")
	c := f.exec("INSERT INTO t (a) VALUES ('one'), ('two')")
	if c.Version != 2 || c.Results[0].GetRowsAffected() != 2 || c.Results[0].GetLastInsertRowid() != 2 {
		t.Errorf("commit: version %d, result %v", c.Version, c.Results[0])
	}
	if c := f.exec("UPDATE t SET a = a"); c.Version != 0 {
		t.Errorf("an update that changes nothing made version %d", c.Version)
	}
	f.close()
	f.open()
	f.want("SELECT * FROM t ORDER BY id", "1|one", "2|two")
	if c := f.exec("DELETE FROM t"); c.Version != 3 {
		t.Errorf("version %d, want 3", c.Version)
	}
}

// TestRebuildFromLog deletes the SQLite file: the log alone must bring everything back.
func TestRebuildFromLog(t *testing.T) {
	f := newFixture(t)
	for _, sql := range []string{
		"CREATE TABLE parent (id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL UNIQUE)",
		"CREATE TABLE child (a TEXT NOT NULL, b TEXT NOT NULL COLLATE NOCASE, v REAL, PRIMARY KEY (a, b DESC)) WITHOUT ROWID",
		"CREATE TABLE loose (x, y)",
		"CREATE TABLE keyed (k TEXT NOT NULL PRIMARY KEY, n INTEGER DEFAULT 7, g AS (n * 2), s AS (n * 3) STORED)",
		"CREATE INDEX by_v ON child (v)",
		"CREATE VIEW names AS SELECT name FROM parent",
		"CREATE TRIGGER copies AFTER INSERT ON parent BEGIN INSERT INTO loose VALUES (new.id, new.name); END",
		"INSERT INTO parent (name) VALUES ('a'), ('b'), ('c')",
		"INSERT INTO child VALUES ('x', 'Y', 1), ('x', 'z', 2.5)",
		"UPDATE child SET b = 'y' WHERE b = 'Y'",
		"INSERT INTO keyed (k) VALUES ('k1'), ('k2')",
		"INSERT OR REPLACE INTO parent (id, name) VALUES (9, 'b')",
		"DELETE FROM parent WHERE id = 9",
		"ALTER TABLE loose ADD COLUMN z DEFAULT 'new'",
		"INSERT INTO loose VALUES (1e300, x'00ff', NULL)",
		"ALTER TABLE keyed RENAME COLUMN n TO number",
		"ALTER TABLE keyed RENAME TO keys",
		"UPDATE keys SET number = 8 WHERE k = 'k2'",
		"CREATE TABLE copy AS SELECT * FROM child",
		"ALTER TABLE copy DROP COLUMN v",
		"DROP INDEX by_v",
	} {
		f.exec(sql)
	}
	queries := []string{
		"SELECT * FROM parent ORDER BY id", "SELECT * FROM child ORDER BY a, b", "SELECT rowid, * FROM loose ORDER BY rowid",
		"SELECT rowid, * FROM keys ORDER BY k", "SELECT * FROM copy ORDER BY b", "SELECT * FROM sqlite_sequence",
		"SELECT * FROM names ORDER BY 1",
		"SELECT type, name, tbl_name, sql FROM sqlite_schema WHERE name NOT LIKE '\\_nearside%' ESCAPE '\\' ORDER BY name",
	}
	before := make([][]string, len(queries))
	for i, q := range queries {
		before[i] = f.query(q)
	}
	f.removeFile()
	for i, q := range queries {
		if diff := cmp.Diff(before[i], f.query(q)); diff != "" {
			t.Errorf("%s (-before +after):\n%s", q, diff)
		}
	}
	f.want("PRAGMA integrity_check", "ok")
	if len(before[2]) != 5 || len(before[1]) != 2 {
		t.Errorf("unexpected data before: %v", before)
	}
}

// SQLite takes only ASCII letters of two cases for one: "É" and "é" are two tables.
func TestNamesThatDifferInOtherLetters(t *testing.T) {
	f := newFixture(t)
	for _, sql := range []string{
		`CREATE TABLE "É" (id INTEGER PRIMARY KEY, a)`, `CREATE TABLE "é" (id INTEGER PRIMARY KEY, a)`,
		`INSERT INTO "É" VALUES (1, 'large'), (2, 'large')`, `INSERT INTO "é" VALUES (1, 'small')`,
		`UPDATE "É" SET a = a || '!' WHERE id = 2`, `ALTER TABLE "é" DROP COLUMN a`, "CREATE TABLE \u212a AS SELECT * FROM \"É\"", "CREATE TABLE k (x)", "DROP TABLE k",
	} {
		f.exec(sql)
	}
	f.sumsHold()
	f.removeFile()
	f.want(`SELECT * FROM "É" ORDER BY id`, "1|large", "2|large!")
	f.want(`SELECT * FROM "é"`, "1")
	f.want("SELECT count(*) FROM \u212a", "2")
}

func TestRowsThatCannotBeNamed(t *testing.T) {
	f := newFixture(t)
	f.exec("CREATE TABLE t (id INTEGER PRIMARY KEY)")
	for _, sql := range []string{"CREATE TABLE r (rowid, oid, _rowid_)", "CREATE TABLE r AS SELECT 1 AS rowid, 2 AS OID, 3 AS _rowid_"} {
		_, err := f.try(sql)
		wantReason(t, err, datav1.ErrorReason_ERROR_REASON_SCHEMA_UNSUPPORTED)
	}
	f.exec("CREATE TABLE r (rowid, oid, _rowid_, id INTEGER PRIMARY KEY)")
	f.exec("INSERT INTO r VALUES (1, 2, 3, 4)")
}

func TestDeniedStatements(t *testing.T) {
	f := newFixture(t)
	f.exec("CREATE TABLE t (id INTEGER PRIMARY KEY)")
	for _, sql := range []string{
		"ATTACH 'x' AS y", "BEGIN", "COMMIT", "SAVEPOINT a", "PRAGMA journal_mode = DELETE", "PRAGMA foreign_keys = OFF",
		"SELECT * FROM _nearside_meta", "UPDATE _nearside_meta SET version = 1", "CREATE TABLE _nearside_x (a)",
		"ALTER TABLE t RENAME TO _nearside_t", "SELECT load_extension('x')", "PRAGMA writable_schema = ON",
	} {
		if _, err := f.try(sql); err == nil {
			t.Errorf("%s was allowed", sql)
		}
	}
	// With one of these the engine's own writes would fail, and with them the primary.
	f.exec("CREATE TABLE empty (a)")
	for _, parent := range []string{
		"_nearside_meta", "_nearside_meta (version)", "_nearside_META (nowhere) ON UPDATE CASCADE", "_nearside_early", `"_nearside_catalog" (version)`,
		"_nearside_none",
	} {
		for _, sql := range []string{
			"CREATE TABLE c (a REFERENCES " + parent + ")", "CREATE TABLE c (a, FOREIGN KEY (a) REFERENCES " + parent + ")",
			"ALTER TABLE empty ADD COLUMN b REFERENCES " + parent,
		} {
			_, err := f.try(sql)
			wantReason(t, err, datav1.ErrorReason_ERROR_REASON_STATEMENT_DENIED)
			f.exec("INSERT INTO t DEFAULT VALUES")
		}
	}
	for _, sql := range []string{"SELECT 1; SELECT 2", "DELETE FROM t; (SELECT 1)", "DELETE FROM t; 'x'"} {
		_, err := f.try(sql)
		wantReason(t, err, datav1.ErrorReason_ERROR_REASON_STATEMENT_INVALID)
	}
	f.exec("SELECT 1; -- nothing more")
	// A text that looks like the engine's own cache key is only a text.
	if _, err := f.try("trusted\x00COMMIT"); err == nil {
		t.Error("a NUL in the text was allowed")
	}
}

// TestStatementsThatBecomeSchemaChanges repeats texts that did nothing when they were first compiled.
func TestStatementsThatBecomeSchemaChanges(t *testing.T) {
	f := newFixture(t)
	drop, create := "DROP TABLE IF EXISTS z", "CREATE TABLE IF NOT EXISTS z (a)"
	for range 3 {
		f.exec(drop)
		if c := f.exec(create); c.Version == 0 {
			t.Error("the table was made without a commit")
		}
		f.exec(create)
		f.exec("INSERT INTO z VALUES (1)")
		if c := f.exec(drop); c.Version == 0 {
			t.Error("the table was dropped without a commit")
		}
	}
	c, err := f.db.Transact(context.Background(), &Transaction{Operations: []Operation{
		SQL(drop), SQL(create), SQL(drop), SQL(create), SQL("INSERT INTO z VALUES (2)"),
	}})
	if err != nil || c.Version == 0 {
		t.Fatalf("%+v, %v", c, err)
	}
	f.removeFile()
	f.want("SELECT a FROM z", "2")
}

// TestUncheckedForeignKeys fills a child before its parent, as dumps do, among transactions that are checked.
func TestUncheckedForeignKeys(t *testing.T) {
	f := newFixture(t)
	f.exec("CREATE TABLE p (id INTEGER PRIMARY KEY)")
	f.exec("CREATE TABLE c (id INTEGER PRIMARY KEY, p INTEGER NOT NULL REFERENCES p (id) ON DELETE CASCADE)")
	insert := SQL("INSERT INTO c (p) VALUES (7)")
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			_, err := f.db.Transact(context.Background(), &Transaction{Operations: []Operation{insert}})
			wantReason(t, err, datav1.ErrorReason_ERROR_REASON_CONSTRAINT_FAILED)
		})
		wg.Go(func() {
			tx := &Transaction{Operations: []Operation{insert}, UncheckedForeignKeys: true}
			if _, err := f.db.Transact(context.Background(), tx); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	f.want("SELECT count(*) FROM c", "20")
	f.want("SELECT count(*) FROM pragma_foreign_key_check", "20")
	f.exec("INSERT INTO p VALUES (7)")
	f.exec("DELETE FROM p") // its action runs: they are on again
	f.want("SELECT count(*) FROM c", "0")
}

// A compiled statement is compiled anew where the schema has changed, and has other columns then.
func TestColumnsAreThoseOfTheRows(t *testing.T) {
	f := newFixture(t)
	f.exec("CREATE TABLE t (a)")
	f.exec("INSERT INTO t VALUES (1)")
	columns := func() (n int) {
		t.Helper()
		var sink sqlrun.Collector
		err := f.db.View(t.Context(), func(v *View) error {
			_, err := v.Query(&datav1.Statement{Sql: "SELECT * FROM t"}, &sink)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		if n = len(sink.Result.GetColumns()); len(sink.Result.GetRows()[0].GetValues()) != n {
			t.Errorf("%d columns, a row of %d values", n, len(sink.Result.GetRows()[0].GetValues()))
		}
		return n
	}
	before := columns()
	f.exec("ALTER TABLE t ADD COLUMN b DEFAULT 2")
	if after := columns(); before != 1 || after != 2 {
		t.Errorf("%d columns, then %d", before, after)
	}
	for want := 1; want < 3; want++ {
		c := f.exec("UPDATE t SET a = a + 1 RETURNING *")
		if rs := c.Results[0]; len(rs.GetColumns()) != len(rs.GetRows()[0].GetValues()) {
			t.Errorf("%d columns, %d values", len(rs.GetColumns()), len(rs.GetRows()[0].GetValues()))
		}
		f.exec("ALTER TABLE t ADD COLUMN c" + fmt.Sprint(want))
	}
}

func TestTooLargeIsRefusedWhole(t *testing.T) {
	f := newFixture(t)
	f.exec("CREATE TABLE t (id INTEGER PRIMARY KEY, a)")
	const nine = "WITH n(i) AS (VALUES (1) UNION ALL SELECT i+1 FROM n WHERE i < 9) "
	_, err := f.try(nine + "INSERT INTO t (a) SELECT zeroblob(8000000) FROM n")
	wantReason(t, err, datav1.ErrorReason_ERROR_REASON_TRANSACTION_TOO_LARGE)
	_, err = f.try(nine + "SELECT zeroblob(8000000) FROM n")
	wantReason(t, err, datav1.ErrorReason_ERROR_REASON_RESULT_TOO_LARGE)
	f.want("SELECT count(*) FROM t", "0")
}
