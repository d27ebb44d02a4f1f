package replica

import (
	"fmt"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nearside-dev/nearside/internal/catalog"
	"github.com/nearside-dev/nearside/internal/rowcodec"
	"github.com/nearside-dev/nearside/internal/value"
	"github.com/nearside-dev/nearside/sidecar/replica/replicatest"
)

const benchGroup = 1000 // records in a group, of one row each

// benchTable has two indexes and rows of about 200 bytes.
func benchTable() *catalog.Table {
	t := replicatest.Table(10, "users", "id", "email", "age", "bio")
	return replicatest.WithIndex(replicatest.WithIndex(t, 20, "by_email", true, "email"), 21, "by_age", false, "age")
}

func benchRow(id, age int64) rowcodec.Row {
	return replicatest.Row(id, value.Text(fmt.Sprintf("user%08d@example.org", id)), value.Integer(age),
		value.Text(strings.Repeat("b", 160)))
}

// BenchmarkApply reports the time for one row: groups of a thousand commits with a row each.
func BenchmarkApply(b *testing.B) {
	u := benchTable()
	for _, bench := range []struct {
		name string
		row  func(i int64) rowcodec.Row
	}{
		{"insert", func(i int64) rowcodec.Row { return benchRow(i, i%100) }},
		{"insert in no order", func(i int64) rowcodec.Row { return benchRow(i*0x9e3779b1%(1<<32), i%100) }},
		{"update", func(i int64) rowcodec.Row { return benchRow(i%10_000, 7) }},
		{"update of an indexed column", func(i int64) rowcodec.Row { return benchRow(i%10_000, i) }},
	} {
		b.Run(bench.name, func(b *testing.B) {
			s, err := OpenStore(b.TempDir(), Options{})
			if err != nil {
				b.Fatal(err)
			}
			defer s.Close()
			p := replicatest.NewPrimary()
			apply(b, s, shop, p.Commit(replicatest.Schema(u)))
			groups := make([][][]byte, 0, b.N/benchGroup+1)
			for next := 0; next < b.N; {
				group := make([][]byte, min(benchGroup, b.N-next))
				for i := range group {
					group[i] = p.Commit(replicatest.Put(u, bench.row(int64(next))))
					next++
				}
				groups = append(groups, group)
			}
			runtime.GC()
			before := cpuTime(b)
			b.ReportAllocs()
			b.ResetTimer()
			for _, group := range groups {
				apply(b, s, shop, group...)
			}
			b.StopTimer()
			b.ReportMetric(float64(cpuTime(b)-before)/float64(b.N), "cpu-ns/row") // flushes and compactions too
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "rows/s")
		})
	}
}

// cpuTime returns the processor time that this process has had, which a busy machine changes less than the clock's.
func cpuTime(b *testing.B) time.Duration {
	b.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkApplyBulk reports the time for one row of commits of ten thousand rows.
func BenchmarkApplyBulk(b *testing.B) {
	const rows = 10_000
	u := benchTable()
	s, err := OpenStore(b.TempDir(), Options{})
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	p := replicatest.NewPrimary()
	apply(b, s, shop, p.Commit(replicatest.Schema(u)))
	var records [][]byte
	for first := 0; first < b.N; first += rows {
		put := make([]rowcodec.Row, min(rows, b.N-first))
		for i := range put {
			put[i] = benchRow(int64(first+i), int64(i%100))
		}
		records = append(records, p.Commit(replicatest.Put(u, put...)))
	}
	runtime.GC()
	before := cpuTime(b)
	b.ReportAllocs()
	b.ResetTimer()
	for _, record := range records {
		apply(b, s, shop, record)
	}
	b.StopTimer()
	b.ReportMetric(float64(cpuTime(b)-before)/float64(b.N), "cpu-ns/row") // flushes and compactions too
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "rows/s")
}

func benchStore(b *testing.B, rows int64) (*Database, *catalog.Table) {
	b.Helper()
	u := benchTable()
	s, err := OpenStore(b.TempDir(), Options{})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { s.Close() })
	p := replicatest.NewPrimary()
	apply(b, s, shop, p.Commit(replicatest.Schema(u)))
	for first := int64(0); first < rows; first += 1000 {
		var put []rowcodec.Row
		for i := range int64(1000) {
			put = append(put, benchRow(first+i, i%100))
		}
		apply(b, s, shop, p.Commit(replicatest.Put(u, put...)))
	}
	if err := s.db.Flush(); err != nil {
		b.Fatal(err)
	}
	return database(b, s, shop), u
}

func BenchmarkSnapshot(b *testing.B) {
	const rows = 100_000
	d, u := benchStore(b, rows)
	key := func(i int) []byte { return rowcodec.AppendRowKey(nil, u, benchRow(int64(i*7919%rows), 0)) }
	keys := make([][]byte, 4096)
	for i := range keys {
		keys[i] = key(i)
	}
	b.Run("open and close", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			snap, err := d.Snapshot()
			if err != nil {
				b.Fatal(err)
			}
			snap.Close()
		}
	})
	b.Run("GetRow", func(b *testing.B) {
		snap, err := d.Snapshot()
		if err != nil {
			b.Fatal(err)
		}
		defer snap.Close()
		b.ReportAllocs()
		i := 0
		for b.Loop() {
			i++
			if _, _, ok, err := snap.GetRow(u, keys[i%len(keys)]); !ok || err != nil {
				b.Fatal(ok, err)
			}
		}
	})
	b.Run("snapshot and GetRow", func(b *testing.B) {
		b.ReportAllocs()
		i := 0
		for b.Loop() {
			i++
			snap, err := d.Snapshot()
			if err != nil {
				b.Fatal(err)
			}
			if _, _, ok, err := snap.GetRow(u, keys[i%len(keys)]); !ok || err != nil {
				b.Fatal(ok, err)
			}
			snap.Close()
		}
	})
	b.Run("GetUnique", func(b *testing.B) {
		snap, err := d.Snapshot()
		if err != nil {
			b.Fatal(err)
		}
		defer snap.Close()
		prefix, err := rowcodec.AppendIndexPrefix(nil, u, &u.Indexes[0], benchRow(4711, 0).Values[1:2])
		if err != nil {
			b.Fatal(err)
		}
		b.ReportAllocs()
		for b.Loop() {
			if _, ok, err := snap.GetUnique(u, &u.Indexes[0], prefix); !ok || err != nil {
				b.Fatal(ok, err)
			}
		}
	})
	b.Run("scan of a row", func(b *testing.B) {
		snap, err := d.Snapshot()
		if err != nil {
			b.Fatal(err)
		}
		defer snap.Close()
		it, err := snap.NewRowIter(u, nil, nil, false)
		if err != nil {
			b.Fatal(err)
		}
		defer it.Close()
		b.ReportAllocs()
		for b.Loop() {
			if !it.Next() {
				it.Reset(nil, nil, false)
				it.Next()
			}
			if _, _, err := it.Value(); err != nil {
				b.Fatal(err)
			}
		}
	})
}
