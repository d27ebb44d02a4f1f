package engine

import (
	"context"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/internal/sqlite"
	"github.com/nearside-dev/nearside/internal/value"
)

// usersSQL is the table of the benchmarks of bench/, with its indexes.
const usersSQL = `CREATE TABLE users (id INTEGER NOT NULL PRIMARY KEY, email TEXT NOT NULL, age INTEGER NOT NULL, bio TEXT NOT NULL);
CREATE UNIQUE INDEX users_by_email ON users (email);
CREATE INDEX users_by_age ON users (age)`

const benchRows = 20_000 // in the table at the beginning

func benchUser(id int64) map[string]*datav1.Value {
	return map[string]*datav1.Value{
		"id":    value.ToProto(value.Integer(id)),
		"email": value.ToProto(value.Text(fmt.Sprintf("user%08d@example.org", id))),
		"age":   value.ToProto(value.Integer(id * 2654435761 % 100)),
		"bio":   value.ToProto(value.Text(strings.Repeat("x", 150))),
	}
}

// BenchmarkPut is what a row that 64 callers put costs beside the call around it: processor time is the whole process's.
func BenchmarkPut(b *testing.B) {
	f := &fixture{dir: b.TempDir(), t: new(testing.T)}
	f.open()
	defer f.close()
	for sql := range strings.SplitSeq(usersSQL, ";") {
		f.exec(sql)
	}
	f.exec("INSERT INTO users WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < "+strconv.Itoa(benchRows)+
		") SELECT i, format('user%08d@example.org', i), i * 2654435761 % 100, ?1 FROM n", value.Text(strings.Repeat("x", 150)))
	var id atomic.Int64
	id.Store(benchRows)
	b.ReportAllocs()
	b.SetParallelism(32)
	begin := processorTime(b)
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			op := putOperation{&datav1.Put{Table: "users", Values: benchUser(id.Add(1))}}
			if _, err := f.db.Transact(context.Background(), &Transaction{Operations: []Operation{op}}); err != nil {
				b.Error(err)
				return
			}
		}
	})
	b.ReportMetric(float64((processorTime(b)-begin).Nanoseconds())/float64(b.N), "cpu-ns/op")
}

// BenchmarkSQLiteAlone is the least that SQLite itself needs for the same rows, in groups: one compiled statement for each and
// a COMMIT without any fsync, with no hook, savepoint, log or caller.
func BenchmarkSQLiteAlone(b *testing.B) {
	for _, group := range []int{8, 32, 64} {
		b.Run(fmt.Sprintf("group=%d", group), func(b *testing.B) {
			conn, err := sqlite.Open(filepath.Join(b.TempDir(), "alone.sqlite"), sqlite.ReadWrite|sqlite.Create)
			if err != nil {
				b.Fatal(err)
			}
			s := newSession(conn, false)
			b.Cleanup(func() {
				if err := s.close(); err != nil {
					b.Error(err)
				}
			})
			run := func(sql string, params ...value.Value) {
				if err := s.run(sql, params...); err != nil {
					b.Fatal(err)
				}
			}
			for _, sql := range append([]string{"PRAGMA journal_mode = WAL", "PRAGMA synchronous = NORMAL", "PRAGMA cache_size = -8192"},
				strings.Split(usersSQL, ";")...) {
				run(sql)
			}
			const put = "INSERT INTO users (id, email, age, bio) VALUES (?1, ?2, ?3, ?4) ON CONFLICT (id) DO UPDATE SET " +
				"email = excluded.email, age = excluded.age, bio = excluded.bio"
			bio := value.Text(strings.Repeat("x", 150))
			id := int64(0)
			row := func() {
				id++
				run(put, value.Integer(id), value.Text(fmt.Sprintf("user%08d@example.org", id)), value.Integer(id*2654435761%100), bio)
			}
			run("BEGIN")
			for range benchRows {
				row()
			}
			run("COMMIT")
			begin := processorTime(b)
			b.ResetTimer()
			for n := 0; n < b.N; {
				run("BEGIN")
				for range min(group, b.N-n) {
					row()
					n++
				}
				run("COMMIT")
			}
			b.ReportMetric(float64((processorTime(b)-begin).Nanoseconds())/float64(b.N), "cpu-ns/op")
		})
	}
}

func processorTime(b *testing.B) time.Duration {
	b.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
