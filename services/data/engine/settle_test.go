package engine

import (
	"context"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/google/go-cmp/cmp"

	replicationv1 "github.com/nearside-dev/nearside/gen/nearside/replication/v1"
	"github.com/nearside-dev/nearside/internal/rowcodec"
	"github.com/nearside-dev/nearside/services/data/changelog"
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
		{"drop a column", []string{"ALTER TABLE t DROP COLUMN a"}, 0},
		{"drop a column between updates of it", []string{
			"UPDATE t SET a = 'x' WHERE id <= 3", "ALTER TABLE t DROP COLUMN a", "UPDATE t SET z = 2.5 WHERE id BETWEEN 3 AND 5",
		}, 3},
		{"drop a column that rows were inserted with", []string{"INSERT INTO t VALUES (101, 1, 1)", "ALTER TABLE t DROP COLUMN z"}, 1},
		{"drop a column and add one of its name", []string{
			"ALTER TABLE t DROP COLUMN a", "ALTER TABLE t ADD COLUMN a DEFAULT 5", "UPDATE t SET a = 6 WHERE id = 7",
		}, 1},
		{"drop all columns but one that was added", []string{
			"ALTER TABLE t ADD COLUMN c DEFAULT 5", "ALTER TABLE t DROP COLUMN a", "ALTER TABLE t DROP COLUMN z",
		}, 0},
		{"add and drop a column", []string{"ALTER TABLE t ADD COLUMN c", "UPDATE t SET c = id", "ALTER TABLE t DROP COLUMN c"}, 0},
		{"drop a column and rename the table", []string{
			"ALTER TABLE t DROP COLUMN a", "ALTER TABLE t RENAME TO u", "CREATE TABLE t (x)", "INSERT INTO t VALUES (1)",
		}, 1},
		{"drop a column of a table with all that may be beside it", []string{
			"CREATE INDEX i ON t (z DESC, id)", "CREATE VIEW v AS SELECT z FROM t",
			"CREATE TRIGGER g AFTER DELETE ON t BEGIN UPDATE t SET z = 3 WHERE id = old.id + 1; END",
			"ALTER TABLE t DROP COLUMN a", "DELETE FROM t WHERE id = 3",
		}, 2},
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
			f.sumsHold()
			before, objects := f.dump(), f.objects()
			f.removeFile()
			if diff := cmp.Diff(before, f.dump()); diff != "" {
				t.Errorf("file differs from what the log rebuilds (-file +log):\n%s", diff)
			}
			if diff := cmp.Diff(objects, f.objects()); diff != "" {
				t.Errorf("order of the schema differs from what the log rebuilds (-file +log):\n%s", diff)
			}
		})
	}
}

// objects is the schema in its order, as the next change of it will tell it.
func (f *fixture) objects() []string {
	f.t.Helper()
	return f.query("SELECT type, name FROM sqlite_schema WHERE sql IS NOT NULL AND name <> 'sqlite_sequence' AND name NOT LIKE '\\_nearside%' ESCAPE '\\' ORDER BY rowid")
}

// sumsHold compares the log's sums with the file's rows.
func (f *fixture) sumsHold() {
	f.t.Helper()
	err := f.db.ViewWithSums(f.t.Context(), func(v *View, sums map[uint32]changelog.TableSum) error {
		for _, t := range v.Catalog().Tables {
			var sum changelog.TableSum
			err := v.ScanTable(t, false, func(key, value []byte) error {
				sum.Sum = sum.Sum.Add(rowcodec.RowSum(t.ID, key, value))
				sum.Rows++
				return nil
			})
			if err != nil {
				return err
			}
			if sum != sums[t.ID] {
				f.t.Errorf("table %s has %v, the log %v", t.Name, sum, sums[t.ID])
			}
		}
		return nil
	})
	if err != nil {
		f.t.Fatal(err)
	}
}

// TestDropColumnOfNextToNothing has the columns dropped that are in no row's bytes, or of tables without rows.
func TestDropColumnOfNextToNothing(t *testing.T) {
	f := newFixture(t)
	f.exec("CREATE TABLE t (id INTEGER PRIMARY KEY, a, v AS (a + 1), s AS (a + 2) STORED)")
	f.exec("ALTER TABLE t DROP COLUMN s")
	f.exec("INSERT INTO t VALUES (1, 2)")
	c := f.exec("ALTER TABLE t DROP COLUMN v")
	if r := f.record(c.Version); len(r.GetTables()) != 0 || len(r.GetDroppedTableIds()) != 0 || r.GetCatalog() == nil {
		t.Errorf("record of a virtual column's drop: %v", r)
	}
	f.exec("ALTER TABLE t DROP COLUMN a")
	f.exec("INSERT INTO t VALUES (2)")
	f.sumsHold()
	before := f.dump()
	f.removeFile()
	if diff := cmp.Diff(before, f.dump()); diff != "" {
		t.Errorf("file differs from what the log rebuilds (-file +log):\n%s", diff)
	}
	f.exec("INSERT INTO t VALUES (3)")
	f.sumsHold()
}

// TestDropColumnBeyondARecord drops a column of a table that is larger than what a record may carry of it.
func TestDropColumnBeyondARecord(t *testing.T) {
	f := &fixture{t: t, dir: t.TempDir()}
	f.open()
	f.db.wholeTableBytes = 1
	defer f.close()
	f.exec("CREATE TABLE t (id INTEGER PRIMARY KEY, a, b)")
	f.exec("WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < 5000) INSERT INTO t SELECT i, i, i FROM n")
	c := f.exec("ALTER TABLE t DROP COLUMN a")
	r := f.record(c.Version)
	if tables := r.GetTables(); len(tables) != 1 || tables[0].GetReplaced() || tables[0].GetRowCount() != 5000 || len(c.Results) != 1 {
		t.Errorf("record has %v", tables)
	}
	f.sumsHold()
}

// TestDropColumnIsEnded has the one who asks for it go away while the sum is made.
func TestDropColumnIsEnded(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	f := &fixture{t: t, dir: t.TempDir(), failpoint: func(place string) {
		if place == "before-sums" {
			cancel()
		}
	}}
	f.open()
	defer f.close()
	f.exec("CREATE TABLE t (id INTEGER PRIMARY KEY, a, b)")
	f.exec("WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < 20000) INSERT INTO t SELECT i, i, i FROM n")
	before := f.dump()
	if _, err := f.db.Transact(ctx, operations("ALTER TABLE t DROP COLUMN a")); err == nil {
		t.Fatal("it was done")
	}
	if diff := cmp.Diff(before, f.dump()); diff != "" {
		t.Errorf("it left something (-before +after):\n%s", diff)
	}
	f.exec("ALTER TABLE t DROP COLUMN b")
	f.sumsHold()
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
