package engine

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"

	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/internal/rpcerr"
	"github.com/nearside-dev/nearside/internal/value"
)

func TestPoisonInAGroupHarmsOnlyItself(t *testing.T) {
	f := newFixture(t)
	f.exec("CREATE TABLE t (id INTEGER PRIMARY KEY, a TEXT UNIQUE, p INTEGER REFERENCES t (id) DEFERRABLE INITIALLY DEFERRED)")
	f.exec("CREATE TRIGGER boom BEFORE INSERT ON t WHEN new.a = 'boom' BEGIN SELECT RAISE(ROLLBACK, 'boom'); END")
	f.exec("INSERT INTO t (id, a) VALUES (1, 'taken')")
	poisons := map[string]string{
		"deferred key": "INSERT INTO t (a, p) VALUES ('orphan', 999)",
		"or rollback":  "INSERT OR ROLLBACK INTO t (a) VALUES ('taken')",
		"raise":        "INSERT INTO t (a) VALUES ('boom')",
		"abort":        "INSERT INTO t (a) VALUES ('taken')",
	}
	for name, poison := range poisons {
		t.Run(name, func(t *testing.T) {
			const others = 40
			var wg sync.WaitGroup
			failed := make(chan error, 2*others)
			for i := range others {
				wg.Go(func() {
					if _, err := f.try("INSERT INTO t (a) VALUES (?1)", value.Text(fmt.Sprintf("%s %d", name, i))); err != nil {
						failed <- err
					}
				})
				if i%8 == 0 {
					wg.Go(func() {
						if _, err := f.try(poison); rpcerr.ReasonOf(err) != datav1.ErrorReason_ERROR_REASON_CONSTRAINT_FAILED {
							failed <- fmt.Errorf("poison: %w", err)
						}
					})
				}
			}
			wg.Wait()
			close(failed)
			for err := range failed {
				t.Error(err)
			}
			f.want("SELECT count(*) FROM t WHERE a LIKE '"+name+" %'", fmt.Sprint(others))
		})
	}
	f.want("SELECT count(*) FROM t WHERE a IN ('orphan', 'boom')", "0")
}

func TestNothingLeaksBetweenTransactions(t *testing.T) {
	f := newFixture(t)
	f.exec("CREATE TABLE t (id INTEGER PRIMARY KEY)")
	f.exec("INSERT INTO t VALUES (41), (42)")
	c := f.exec("INSERT INTO t SELECT 100 + last_insert_rowid() + changes()")
	f.want("SELECT max(id) FROM t", "100")
	if c.Results[0].GetLastInsertRowid() != 100 {
		t.Errorf("last rowid %v", c.Results[0].LastInsertRowid)
	}
	_, err := f.try("CREATE TEMP TABLE x (a)")
	wantReason(t, err, datav1.ErrorReason_ERROR_REASON_STATEMENT_DENIED)
}

func TestCancelledCallerHarmsOnlyItself(t *testing.T) {
	f := newFixture(t)
	f.exec("CREATE TABLE t (id INTEGER PRIMARY KEY, a)")
	ctx, cancel := context.WithCancel(context.Background())
	endless := "INSERT INTO t (a) WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT i FROM n"
	stopped := make(chan error, 1)
	go func() {
		_, err := f.db.Transact(ctx, &Transaction{Operations: []Operation{SQL("INSERT INTO t (a) VALUES ('before')"), SQL(endless)}})
		stopped <- err
	}()
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Go(func() { f.exec("INSERT INTO t (a) VALUES (?1)", value.Integer(int64(i))) })
	}
	cancel()
	wg.Wait()
	wantReason(t, <-stopped, datav1.ErrorReason_ERROR_REASON_STATEMENT_INTERRUPTED)
	f.want("SELECT count(*), sum(a = 'before') FROM t", "20|0")
}

// TestLongTransactionDoesNotHoldUpItsGroup mixes a slow transaction into many short ones: all are done.
func TestLongTransactionDoesNotHoldUpItsGroup(t *testing.T) {
	f := newFixture(t)
	f.exec("CREATE TABLE t (id INTEGER PRIMARY KEY, a)")
	var wg sync.WaitGroup
	for i := range 64 {
		wg.Go(func() {
			for range 20 {
				f.exec("INSERT INTO t (a) VALUES ('short')")
			}
			if i%16 == 0 {
				f.exec("INSERT INTO t (a) WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 100000) SELECT 'long' FROM n")
			}
		})
	}
	wg.Wait()
	f.want("SELECT a, count(*) FROM t GROUP BY a ORDER BY a", "long|400000", "short|1280")
}

func BenchmarkTransact(b *testing.B) {
	for _, clients := range []int{1, 64} {
		b.Run(fmt.Sprintf("clients=%d", clients), func(b *testing.B) {
			f := &fixture{dir: b.TempDir(), t: new(testing.T)}
			f.open()
			defer f.close()
			f.exec("CREATE TABLE t (id INTEGER PRIMARY KEY, a TEXT, b TEXT)")
			b.ReportAllocs()
			b.SetParallelism(clients)
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					f.exec("INSERT INTO t (a, b) VALUES (?1, ?2)", value.Text("some text here"), value.Text(strings.Repeat("x", 150)))
				}
			})
		})
	}
}
