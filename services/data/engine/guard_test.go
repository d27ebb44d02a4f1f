package engine

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/internal/rpcerr"
	"github.com/nearside-dev/nearside/internal/sqlite"
)

// TestEveryAction has the guard decide about each action that SQLite knows.
func TestEveryAction(t *testing.T) {
	const ok, deny = sqlite.AuthOK, sqlite.AuthDeny
	inside := internalPrefix + "meta"
	tests := []struct {
		action     sqlite.Action
		arg1, arg2 string
		want       sqlite.Auth
	}{
		{sqlite.ActionSelect, "", "", ok},
		{sqlite.ActionRecursive, "", "", ok},
		{sqlite.ActionRead, "t", "a", ok},
		{sqlite.ActionRead, inside, "version", deny},
		{sqlite.ActionRead, strings.ToUpper(inside), "version", deny},
		{sqlite.ActionRead, "sqlite_dbpage", "data", deny},
		{sqlite.ActionRead, "DBSTAT", "name", deny},
		{sqlite.ActionRead, "sqlite_master", "sql", ok},
		{sqlite.ActionInsert, "t", "", ok},
		{sqlite.ActionInsert, inside, "", deny},
		{sqlite.ActionUpdate, "t", "a", ok},
		{sqlite.ActionUpdate, inside, "version", deny},
		{sqlite.ActionDelete, "t", "", ok},
		{sqlite.ActionDelete, inside, "", deny},
		{sqlite.ActionFunction, "", "upper", ok},
		{sqlite.ActionFunction, "", "load_extension", deny},
		{sqlite.ActionFunction, "", "LOAD_EXTENSION", deny},
		{sqlite.ActionPragma, "table_info", "t", ok},
		{sqlite.ActionPragma, "user_version", "", ok},
		{sqlite.ActionPragma, "user_version", "7", deny},
		{sqlite.ActionPragma, "defer_foreign_keys", "1", ok},
		{sqlite.ActionPragma, "writable_schema", "", deny},
		{sqlite.ActionCreateTable, "t", "", ok},
		{sqlite.ActionCreateTable, inside, "", deny},
		{sqlite.ActionCreateView, "v", "", ok},
		{sqlite.ActionCreateView, inside, "", deny},
		{sqlite.ActionCreateIndex, "i", "t", ok},
		{sqlite.ActionCreateIndex, "i", inside, deny},
		{sqlite.ActionCreateTrigger, "g", "t", ok},
		{sqlite.ActionCreateTrigger, "g", inside, deny},
		{sqlite.ActionDropTable, "t", "", ok},
		{sqlite.ActionDropTable, inside, "", deny},
		{sqlite.ActionDropView, "v", "", ok},
		{sqlite.ActionDropView, inside, "", deny},
		{sqlite.ActionDropIndex, "i", "t", ok},
		{sqlite.ActionDropIndex, "i", inside, deny},
		{sqlite.ActionDropTrigger, "g", "t", ok},
		{sqlite.ActionDropTrigger, "g", inside, deny},
		{sqlite.ActionAlterTable, "main", "t", ok},
		{sqlite.ActionAlterTable, "main", inside, deny},
		{sqlite.ActionReindex, "i", "", ok},
		{sqlite.ActionAnalyze, "t", "", deny},
		{sqlite.ActionTransaction, "COMMIT", "", deny},
		{sqlite.ActionSavepoint, "BEGIN", "a", deny},
		{sqlite.ActionAttach, "x", "", deny},
		{sqlite.ActionDetach, "x", "", deny},
		{sqlite.ActionCreateVTable, "t", "fts5", deny},
		{sqlite.ActionDropVTable, "t", "fts5", deny},
		{sqlite.ActionCreateTempTable, "t", "", deny},
		{sqlite.ActionCreateTempView, "v", "", deny},
		{sqlite.ActionCreateTempIndex, "i", "t", deny},
		{sqlite.ActionCreateTempTrigger, "g", "t", deny},
		{sqlite.ActionDropTempTable, "t", "", deny},
		{sqlite.ActionDropTempView, "v", "", deny},
		{sqlite.ActionDropTempIndex, "i", "t", deny},
		{sqlite.ActionDropTempTrigger, "g", "t", deny},
		{sqlite.ActionRecursive + 1, "", "", deny}, // what a later SQLite may know
	}
	seen := make(map[sqlite.Action]bool)
	for _, tt := range tests {
		seen[tt.action] = true
		var g guard
		if got := g.authorize(tt.action, tt.arg1, tt.arg2, "main", ""); got != tt.want {
			t.Errorf("action %d %s %s: %v, want %v", tt.action, tt.arg1, tt.arg2, got, tt.want)
		}
		if denied := g.take().denied; (denied != "") != (tt.want == deny) && tt.action <= sqlite.ActionRecursive {
			t.Errorf("action %d %s %s: said to be %q", tt.action, tt.arg1, tt.arg2, denied)
		}
	}
	for action := sqlite.ActionCreateIndex; action <= sqlite.ActionRecursive; action++ {
		if !seen[action] {
			t.Errorf("action %d is not in the table", action)
		}
	}
	var temp guard
	if got := temp.authorize(sqlite.ActionCreateTable, "t", "", "temp", ""); got != deny {
		t.Errorf("a table of the TEMP schema: %v", got)
	}
	readOnly := guard{readOnly: true}
	if got := readOnly.authorize(sqlite.ActionPragma, "defer_foreign_keys", "1", "", ""); got != deny {
		t.Errorf("a reader may defer foreign keys: %v", got)
	}
}

// names returns the first column of what the engine's own connection answers.
func names(t *testing.T, f *fixture, sql string) []string {
	t.Helper()
	var got []string
	err := f.db.View(t.Context(), func(v *View) error {
		return v.r.rows(sql, nil, func(st *sqlite.Stmt) error {
			got = append(got, st.Column(0).Text())
			return nil
		})
	})
	if err != nil {
		t.Fatal(err)
	}
	return got
}

// What this SQLite brings along: another one that brings more must be looked at.
func TestWhatSQLiteHas(t *testing.T) {
	f := newFixture(t)
	f.exec("CREATE TABLE t (id INTEGER PRIMARY KEY, a)")

	modules := names(t, f, "SELECT name FROM pragma_module_list WHERE name NOT LIKE 'pragma%' AND name NOT LIKE 'json%' ORDER BY 1")
	want := []string{"dbstat", "fts5", "fts5vocab", "geopoly", "rtree", "rtree_i32", "sqlite_dbpage"}
	if diff := cmp.Diff(want, modules); diff != "" {
		t.Errorf("modules (-want +got):\n%s", diff)
	}
	allowed := strings.Fields(`application_id collation_list compile_options defer_foreign_keys encoding foreign_key_check
		foreign_key_list foreign_keys function_list index_info index_list index_xinfo integrity_check page_count page_size
		quick_check schema_version table_info table_list table_xinfo user_version`)
	var got []string
	for _, pragma := range names(t, f, "SELECT name FROM pragma_pragma_list ORDER BY 1") {
		if (&guard{}).authorize(sqlite.ActionPragma, pragma, "", "", "") == sqlite.AuthOK {
			got = append(got, pragma)
		}
	}
	if diff := cmp.Diff(allowed, got); diff != "" {
		t.Errorf("pragmas (-want +got):\n%s", diff)
	}
	denied := []string{"load_extension", "sqlite_log", "total_changes"}
	got = nil
	for _, function := range names(t, f, "SELECT DISTINCT name FROM pragma_function_list ORDER BY 1") {
		if (&guard{}).authorize(sqlite.ActionFunction, "", function, "", "") != sqlite.AuthOK {
			got = append(got, function)
		}
	}
	if diff := cmp.Diff(denied, got); diff != "" {
		t.Errorf("functions (-want +got):\n%s", diff)
	}
}

// TestForbidden sends statements that reach beyond the database to both kinds of connection.
func TestForbidden(t *testing.T) {
	f := newLimitsFixture(t)
	for _, sql := range []string{
		"ATTACH 'x' AS y", "ATTACH ':memory:' AS y", "DETACH main", "ANALYZE",
		"BEGIN", "COMMIT", "ROLLBACK", "SAVEPOINT a", "RELEASE ns", "ROLLBACK TO ns", "END",
		"PRAGMA journal_mode = DELETE", "PRAGMA writable_schema = ON", "PRAGMA temp_store_directory = '/tmp'",
		"PRAGMA hard_heap_limit = 0", "PRAGMA trusted_schema = ON", "PRAGMA mmap_size = 1", "PRAGMA temp_store = FILE",
		"PRAGMA cache_size = 1000000", "PRAGMA wal_checkpoint(TRUNCATE)", "PRAGMA data_version", "PRAGMA database_list",
		"SELECT * FROM pragma_database_list", "SELECT * FROM pragma_temp_store",
		"SELECT load_extension('x')", "SELECT sqlite_log(1, 'x')", "SELECT total_changes()",
		"SELECT data FROM sqlite_dbpage", "UPDATE sqlite_dbpage SET data = zeroblob(4096)", "SELECT * FROM dbstat",
		"SELECT * FROM _nearside_meta", `SELECT * FROM main."_NEARSIDE_catalog"`, "DELETE FROM _nearside_meta",
		"SELECT (SELECT version FROM _nearside_meta) FROM t", "WITH x AS (SELECT * FROM _nearside_meta) SELECT * FROM x",
		"CREATE TABLE _nearside_x (a)", "CREATE VIEW _nearside_x AS SELECT 1",
		"CREATE TABLE x AS SELECT * FROM _nearside_meta",
		"CREATE TEMP TABLE x (a)", "CREATE TEMP VIEW x AS SELECT 1", "CREATE TABLE temp.x (a)", "CREATE VIEW temp.x AS SELECT 1",
		"CREATE TRIGGER temp.x AFTER INSERT ON t BEGIN SELECT 1; END",
		"CREATE TEMP TRIGGER x AFTER INSERT ON t BEGIN SELECT 1; END",
		"CREATE VIRTUAL TABLE x USING fts5(a)", "CREATE VIRTUAL TABLE x USING rtree(id, a, b)",
	} {
		for where, err := range f.both(testPatience, sql) {
			if got := rpcerr.ReasonOf(err); got != datav1.ErrorReason_ERROR_REASON_STATEMENT_DENIED {
				t.Errorf("%s: %s: %v (%v)", where, sql, err, got)
			}
		}
	}
	for _, sql := range []string{
		"VACUUM", "VACUUM INTO '/tmp/copy'", "ALTER TABLE t RENAME TO _nearside_t", "ALTER TABLE t RENAME TO _NEARSIDE_t",
		"INSERT INTO sqlite_schema VALUES ('table', 'x', 'x', 2, 'CREATE TABLE x (a)')", "DELETE FROM sqlite_schema",
		"UPDATE sqlite_master SET sql = ''", "SELECT readfile('/etc/hostname')", "SELECT writefile('x', 'y')", "SELECT edit('x')",
		"SELECT fts3_tokenizer('x')", "SELECT * FROM sqlite_stmt", "SELECT * FROM generate_series(1, 2)", ".shell ls",
		"SELECT * FROM csv('/etc/passwd')", "EXPLAIN ATTACH 'x' AS y",
	} {
		for where, err := range f.both(testPatience, sql) {
			if rpcerr.ReasonOf(err) == datav1.ErrorReason_ERROR_REASON_UNSPECIFIED {
				t.Errorf("%s: %s: %v", where, sql, err)
			}
		}
	}
	// A trigger's body is looked at when it would run.
	f.exec("CREATE TRIGGER x AFTER INSERT ON t BEGIN DELETE FROM _nearside_meta; END")
	_, err := f.try("INSERT INTO t (a) VALUES (1)")
	wantReason(t, err, datav1.ErrorReason_ERROR_REASON_STATEMENT_DENIED)
	_, err = f.db.Transact(t.Context(), &Transaction{Operations: []Operation{InsertOperation(&datav1.BatchInsertRequest{
		Table: "t", Columns: []string{"a"}, Rows: []*datav1.Row{{Values: []*datav1.Value{{}}}},
	})}})
	wantReason(t, err, datav1.ErrorReason_ERROR_REASON_STATEMENT_DENIED)
	f.isWell()
}
