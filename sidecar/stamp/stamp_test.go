package stamp_test

import (
	"errors"
	"fmt"
	"sync"
	"testing"

	"github.com/nearside-dev/nearside/sidecar/stamp"
)

func change(t *testing.T, table *stamp.Table, database uint32, touched stamp.Touched) (n stamp.Stamp) {
	t.Helper()
	if err := table.Change(database, touched, func() error { return nil }, func(s stamp.Stamp) { n = s }); err != nil {
		t.Error(err)
	}
	return n
}

// A change of rows that overtakes another one on its way does not lower what that raised.
func TestStampsNeverGoBack(t *testing.T) {
	table := stamp.NewTable()
	row := table.Row(1, 2, []byte("key"))
	before := stamp.Reading{At: table.Last(), Until: table.Last()}
	var wg sync.WaitGroup
	for database := range uint32(8) {
		wg.Go(func() {
			last := stamp.Stamp(0)
			for range 1000 {
				n := change(t, table, database, stamp.Touched{Slots: []stamp.Slot{row}})
				if n <= last {
					t.Errorf("stamp %d after %d", n, last)
				}
				last = n
				// Whoever reads now has this change, and nothing before it holds.
				if table.Holds(stamp.Reading{At: last - 1, Until: last - 1}, last, 1, row) {
					t.Errorf("what was read before change %d holds after it", n)
				}
			}
		})
	}
	wg.Wait()
	if table.Last() != 8001 {
		t.Errorf("last is %d", table.Last())
	}
	if table.Holds(before, table.Last(), 1, row) {
		t.Error("holds after 8,000 changes")
	}
	if now := (stamp.Reading{At: table.Last(), Until: table.Last()}); !table.Holds(now, table.Last(), 1, row) {
		t.Error("what was read now does not hold")
	}
}

func TestFailedChange(t *testing.T) {
	table, failed := stamp.NewTable(), errors.New("failed")
	row := table.Row(1, 2, nil)
	reading := stamp.Reading{At: table.Last(), Until: table.Last()}
	err := table.Change(1, stamp.Touched{Slots: []stamp.Slot{row}}, func() error { return failed }, func(stamp.Stamp) {
		t.Error("published")
	})
	if !errors.Is(err, failed) || table.Holds(reading, table.Last(), 1, row) {
		t.Errorf("error is %v; what it touched must not hold", err)
	}
}

// Rows, tables and databases are spread: few of a thousand share a place.
func TestSlotsAreSpread(t *testing.T) {
	table := stamp.NewTable()
	rows, tables := map[stamp.Slot]bool{}, map[stamp.Slot]bool{}
	for i := range uint32(1000) {
		rows[table.Row(7, 1, fmt.Append(nil, i))] = true
		tables[table.Whole(7, i)] = true
	}
	if len(rows) < 980 || len(tables) < 850 {
		t.Errorf("%d places of rows, %d of tables", len(rows), len(tables))
	}
}

func BenchmarkHolds(b *testing.B) {
	table := stamp.NewTable()
	row := table.Row(1, 2, []byte("key"))
	reading := stamp.Reading{At: 1, Until: 1}
	b.ReportAllocs()
	for b.Loop() {
		if !table.Holds(reading, 1, 1, row) {
			b.Fatal("does not hold")
		}
	}
}

// BenchmarkRaise is what a changed row adds to a commit.
func BenchmarkRaise(b *testing.B) {
	table := stamp.NewTable()
	key := []byte("20 bytes of row keys")
	const rows = 100
	b.ReportAllocs()
	for b.Loop() {
		var touched stamp.Touched
		for i := range rows {
			key[0] = byte(i)
			touched.Slots = append(touched.Slots, table.Row(1, 2, key))
		}
		if err := table.Change(1, touched, func() error { return nil }, func(stamp.Stamp) {}); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/rows, "ns/row")
}
