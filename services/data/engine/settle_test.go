package engine

import (
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/google/go-cmp/cmp"

	replicationv1 "github.com/nearside-dev/nearside/gen/nearside/replication/v1"
)

// record reads a version's record.
func (f *fixture) record(version uint64) *replicationv1.CommitRecord {
	f.t.Helper()
	records, err := f.log.Read(testID, version-1, 1)
	if err != nil || len(records) == 0 {
		f.t.Fatalf("record %d: %v", version, err)
	}
	var r replicationv1.CommitRecord
	if err := proto.Unmarshal(records[0], &r); err != nil {
		f.t.Fatal(err)
	}
	return &r
}

func operations(statements ...string) *Transaction {
	tx := &Transaction{}
	for _, sql := range statements {
		tx.Operations = append(tx.Operations, SQL(sql))
	}
	return tx
}

// TestMigrationShipsWhatItChanged counts the rows in the records of schema changes of a table of 100 rows: what ALTER TABLE
// leaves as it is, and what is changed beside it, decide, not their order.
func TestMigrationShipsWhatItChanged(t *testing.T) {
	for _, test := range []struct {
		name       string
		statements []string
		rows       int
	}{
		{"add", []string{"ALTER TABLE t ADD COLUMN c TEXT DEFAULT 1.50"}, 0},
		{"add, then an update of it", []string{"ALTER TABLE t ADD COLUMN c", "UPDATE t SET c = a WHERE id <= 3"}, 3},
		{"an update, then add", []string{"UPDATE t SET a = 'x' WHERE id <= 3", "ALTER TABLE t ADD COLUMN c DEFAULT 7"}, 3},
		{"rename a column between updates", []string{
			"UPDATE t SET a = 'x' WHERE id <= 3", "ALTER TABLE t RENAME COLUMN a TO b", "UPDATE t SET b = 'y' WHERE id BETWEEN 3 AND 5",
		}, 5},
		{"rename the table between updates", []string{
			"DELETE FROM t WHERE id = 1", "ALTER TABLE t RENAME TO u", "DELETE FROM u WHERE id = 2", "INSERT INTO u (id) VALUES (1)",
		}, 2},
		{"two tables change names", []string{
			"CREATE TABLE u (id INTEGER PRIMARY KEY)", "ALTER TABLE t RENAME TO s", "ALTER TABLE u RENAME TO t", "ALTER TABLE s RENAME TO u",
			"INSERT INTO t VALUES (1), (2)", "DELETE FROM u WHERE id = 9",
		}, 3},
		{"an update beside the drop of another table", []string{
			"CREATE TABLE u (id)", "ALTER TABLE t ADD COLUMN c", "DROP TABLE u", "UPDATE t SET c = 1 WHERE id = 8",
		}, 1},
		{"an update undone beside an index", []string{
			"UPDATE t SET a = 'x' WHERE id = 1", "CREATE INDEX i ON t (a)", "ALTER TABLE t ADD COLUMN c", "UPDATE t SET a = 1 WHERE id = 1",
		}, 0},
		{"rebuild", []string{
			"CREATE TABLE n (id INTEGER PRIMARY KEY, a)", "INSERT INTO n SELECT id, a FROM t", "DROP TABLE t", "ALTER TABLE n RENAME TO t",
			"UPDATE t SET a = 'x'",
		}, 100},
		{"create as select", []string{"CREATE TABLE n AS SELECT id FROM t WHERE id <= 10", "DELETE FROM n WHERE id = 1"}, 9},
	} {
		t.Run(test.name, func(t *testing.T) {
			f := newFixture(t)
			f.exec("CREATE TABLE t (id INTEGER PRIMARY KEY, a INT, z REAL)")
			f.exec("WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < 100) INSERT INTO t SELECT i, i % 10, 1 FROM n")
			commit, err := f.db.Transact(t.Context(), operations(test.statements...))
			if err != nil {
				t.Fatal(err)
			}
			rows := 0
			for _, c := range f.record(commit.Version).GetTables() {
				rows += len(c.GetRows())
			}
			if rows != test.rows {
				t.Errorf("%d rows in the record, want %d", rows, test.rows)
			}
			before := f.dump()
			f.removeFile()
			if diff := cmp.Diff(before, f.dump()); diff != "" {
				t.Errorf("file differs from what the log rebuilds (-file +log):\n%s", diff)
			}
		})
	}
}

// TestFailedMigrationLeavesNothing has a transaction fail after its schema was looked at in the middle of it.
func TestFailedMigrationLeavesNothing(t *testing.T) {
	f := newFixture(t)
	f.exec("CREATE TABLE t (id INTEGER PRIMARY KEY, a)")
	f.exec("INSERT INTO t VALUES (1, 'one')")
	before := f.dump()
	for _, last := range []string{"SELECT * FROM nowhere", "INSERT OR ROLLBACK INTO u VALUES (1, 1, 1)"} {
		tx := operations("ALTER TABLE t RENAME TO u", "ALTER TABLE u ADD COLUMN c DEFAULT 3", "UPDATE u SET c = 4", last)
		if _, err := f.db.Transact(t.Context(), tx); err == nil {
			t.Fatalf("%s: done", last)
		}
		if diff := cmp.Diff(before, f.dump()); diff != "" {
			t.Fatalf("after %s:\n%s", last, diff)
		}
	}
	c := f.exec("UPDATE t SET a = 'two'")
	if tables := f.record(c.Version).GetTables(); len(tables) != 1 || len(tables[0].GetRows()) != 1 {
		t.Errorf("record has %v", tables)
	}
	f.want("SELECT * FROM t", "1|two")
}
