package engine

import (
	"context"
	"errors"
	"fmt"
	"os"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/nearside-dev/nearside/internal/catalog"
	"github.com/nearside-dev/nearside/internal/rowcodec"
	"github.com/nearside-dev/nearside/internal/sqlite"
	"github.com/nearside-dev/nearside/internal/value"
	"github.com/nearside-dev/nearside/services/data/changelog"
)

// openReplacing opens the fixture's database anew, with records that carry next to nothing of tables that were made or
// rewritten.
func (f *fixture) openReplacing() {
	f.t.Helper()
	if err := f.db.Close(); err != nil {
		f.t.Fatal(err)
	}
	var err error
	f.db, err = Open(Config{
		ID: testID, Path: f.path(), Log: f.log, Logger: quiet(), Metrics: NewMetrics(prometheus.NewRegistry()), WholeTableBytes: 80,
	})
	if err != nil {
		f.t.Fatal(err)
	}
}

// checkSums compares the rows of all tables with the log's sums.
func (f *fixture) checkSums() {
	f.t.Helper()
	err := f.db.ViewWithSums(context.Background(), func(v *View, sums map[uint32]changelog.TableSum) error {
		for _, t := range v.Catalog().Tables {
			var sum rowSum
			err := v.ScanTable(t, true, func(key, value []byte) error {
				sum.Sum = sum.Sum.Add(rowcodec.RowSum(t.ID, key, value))
				sum.Rows++
				return nil
			})
			if err != nil {
				return err
			}
			if sum != sums[t.ID] {
				return fmt.Errorf("table %s has %+v, the log %+v", t.Name, sum, sums[t.ID])
			}
		}
		return nil
	})
	if err != nil {
		f.t.Error(err)
	}
}

const someRows = "WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < 50) INSERT INTO t SELECT i, 'row ' || i FROM n"

func TestReplacedTableIsNamedAlone(t *testing.T) {
	f := newFixture(t)
	f.openReplacing()
	f.exec("CREATE TABLE t (id INTEGER PRIMARY KEY, a)")
	f.exec(someRows)
	tx := operations("CREATE TABLE small AS SELECT 1 AS one", "CREATE TABLE large AS SELECT * FROM t", "UPDATE t SET a = 'x' WHERE id = 7",
		"DELETE FROM large WHERE id = 1")
	tx.Key = changelog.IdempotencyKey{Key: "once"}
	c, err := f.db.Transact(t.Context(), tx)
	if err != nil {
		t.Fatal(err)
	}
	again, err := f.db.Transact(t.Context(), tx)
	if err != nil || !again.Replayed || again.Version != c.Version {
		t.Errorf("repeated: %+v, %v", again, err)
	}
	_, schema, err := f.db.Schema(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, change := range f.record(c.Version).GetTables() {
		name := schema.TableByID(change.GetTableId()).Name
		rows := map[string]int{"small": 1, "large": 0, "t": 1}[name]
		if len(change.GetRows()) != rows || change.GetReplaced() != (name == "large") {
			t.Errorf("table %s: %d rows, replaced %v", name, len(change.GetRows()), change.GetReplaced())
		}
	}
	f.want("SELECT count(*) FROM large", "49")
	f.exec("UPDATE large SET a = 'y' WHERE id = 2")
	f.checkSums()
	f.wantRowVersions(schema.TableByName("large"), map[int64]uint64{2: c.Version + 1, 3: c.Version})

	if err := errors.Join(f.db.Close(), f.log.Close()); err != nil {
		t.Fatal(err)
	}
	f.open()
	f.want("SELECT count(*) FROM large", "49")
	f.checkSums()
}

// TestTableBeyondTheLimitOfARecord is at the limit that there is without configuration.
func TestTableBeyondTheLimitOfARecord(t *testing.T) {
	f := newFixture(t)
	c := f.exec("CREATE TABLE large AS WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < 70) SELECT i, zeroblob(1048576) AS b FROM n")
	if tables := f.record(c.Version).GetTables(); len(tables) != 1 || !tables[0].GetReplaced() || tables[0].GetRowCount() != 70 {
		t.Errorf("record has %d tables", len(tables))
	}
	f.checkSums()
}

// wantRowVersions asks for rows of a table that is keyed by its rowid, by themselves and in a chunk.
func (f *fixture) wantRowVersions(table *catalog.Table, want map[int64]uint64) {
	f.t.Helper()
	key := func(id int64) []byte {
		return rowcodec.AppendRowKey(nil, table, rowcodec.Row{Rowid: id, Values: []value.Value{value.Integer(id), value.Null()}})
	}
	chunk, err := f.db.ReadChunk(context.Background(), ChunkStart{Table: table.ID}, []uint32{table.ID})
	if err != nil {
		f.t.Fatal(err)
	}
	inChunk := make(map[string]uint64)
	for _, r := range chunk.Rows {
		inChunk[string(r.Key)] = r.Version
	}
	for id, version := range want {
		got, err := f.log.RowVersion(testID, table.ID, key(id))
		if err != nil || got != version || inChunk[string(key(id))] != version {
			f.t.Errorf("row %d is of version %d, in a chunk %d, want %d: %v", id, got, inChunk[string(key(id))], version, err)
		}
	}
}

// TestKillAroundEarlyCommit kills where the file is ahead of the log, and before and after.
func TestKillAroundEarlyCommit(t *testing.T) {
	for _, place := range []string{"before-early-commit", "after-early-commit", "before-early-append", "after-early-append"} {
		t.Run(place, func(t *testing.T) {
			dir := t.TempDir()
			var acked []string
			for _, hit := range []int{1, 3} {
				more, ended, _ := runCrash(t, dir, place, hit)
				if ended {
					t.Errorf("hit %d was never reached", hit)
				}
				acked = append(acked, more...)
				checkTrimmed(t, dir, acked)
				f := &fixture{t: t, dir: dir}
				f.open()
				f.checkSums()
				f.exec("INSERT INTO w (v) VALUES ('after " + place + fmt.Sprint(hit) + "')")
				f.close()
			}
		})
	}
}

// TestPowerCutBeforeTheWALIsSynced takes away what only the WAL had, when the log does not have the commit either.
func TestPowerCutBeforeTheWALIsSynced(t *testing.T) {
	dir := t.TempDir()
	acked, _, _ := runCrash(t, dir, "after-early-commit", 1)
	if err := os.Remove((&fixture{dir: dir}).path() + "-wal"); err != nil {
		t.Fatal(err)
	}
	checkCrash(t, dir, acked)
}

func TestFailedEarlyCommitLeavesNothing(t *testing.T) {
	dir := t.TempDir()
	acked, ended, logged := runCrash(t, dir, "early-commit-fails", 2)
	if !ended {
		t.Fatalf("the child died: %s", logged)
	}
	checkTrimmed(t, dir, acked)
	f := &fixture{t: t, dir: dir}
	f.open()
	defer f.close()
	f.checkSums()
	f.want("SELECT count(*) FROM w WHERE v = 'after the failure'", "1")
}

// TestLostFileIsNotMadeUp has the log lack the rows that the file lacks: there is nothing to serve.
func TestLostFileIsNotMadeUp(t *testing.T) {
	f := newFixture(t)
	f.openReplacing()
	f.exec("CREATE TABLE t (id INTEGER PRIMARY KEY, a)")
	f.exec(someRows)
	f.exec("CREATE TABLE large AS SELECT * FROM t")
	if err := f.db.Close(); err != nil {
		t.Fatal(err)
	}
	if err := RemoveFiles(f.path()); err != nil {
		t.Fatal(err)
	}
	if _, err := f.openDB(); !errors.Is(err, ErrRowsNotLogged) {
		t.Errorf("opened without its file: %v", err)
	}
}

// TestForeignEarlyBatchIsRefused: a file that is ahead is believed only if it brings the very record that it is ahead by.
func TestForeignEarlyBatchIsRefused(t *testing.T) {
	f := newFixture(t)
	f.exec("CREATE TABLE t (id INTEGER PRIMARY KEY, a)")
	f.exec("INSERT INTO t VALUES (1, 1)")
	batch := f.log.NewBatch(testID)
	if err := batch.Record(3, otherRecord(t, 3)); err != nil {
		t.Fatal(err)
	}
	encoded := append([]byte(nil), batch.Encode()...)
	if err := errors.Join(batch.Close(), f.db.Close()); err != nil {
		t.Fatal(err)
	}
	for name, b := range map[string][]byte{"another record": encoded, "cut": encoded[:len(encoded)-1], "nothing": {}, "noise": []byte("noise, and more of it")} {
		conn, err := sqlite.Open(f.path(), sqlite.ReadWrite)
		if err != nil {
			t.Fatal(err)
		}
		s := newSession(conn, false)
		err = errors.Join(s.run("UPDATE "+metaTable+" SET version = 3"), s.run("DELETE FROM "+earlyTable),
			s.run("INSERT INTO "+earlyTable+" VALUES (?1)", value.Blob(b)), s.close())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.openDB(); !errors.Is(err, ErrAhead) {
			t.Errorf("%s: %v", name, err)
		}
	}
	var err error
	if f.db, err = func() (*DB, error) { // for the clean-up
		if err := RemoveFiles(f.path()); err != nil {
			return nil, err
		}
		return f.openDB()
	}(); err != nil {
		t.Fatal(err)
	}
	f.want("SELECT * FROM t", "1|1")
}
