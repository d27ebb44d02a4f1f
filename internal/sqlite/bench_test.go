package sqlite

import (
	"fmt"
	"testing"

	"github.com/nearside-dev/nearside/internal/value"
)

const benchSchema = `PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;
CREATE TABLE t(id INTEGER PRIMARY KEY, name TEXT, n INTEGER);
WITH RECURSIVE s(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM s LIMIT 100000)
INSERT INTO t SELECT i, printf('name %d of the row', i), i % 97 FROM s;`

// pointSelect reads one row by key, with its text into a buffer used again.
func pointSelect(b *testing.B, s *Stmt, key int64, buf []byte) []byte {
	if err := s.BindValue(1, value.Integer(key)); err != nil {
		b.Fatal(err)
	}
	if row, err := s.Step(); !row {
		b.Fatal(err)
	}
	buf = s.AppendColumnBytes(buf[:0], 0)
	if s.ColumnInt64(1) != key%97 {
		b.Fatal("wrong row")
	}
	if err := s.Reset(); err != nil {
		b.Fatal(err)
	}
	return buf
}

func BenchmarkPointSelect(b *testing.B) {
	c := openFile(b, tempFile(b), benchSchema)
	s := prepare(b, c, "SELECT name, n FROM t WHERE id = ?1")
	exec(b, c, "BEGIN")
	b.ReportAllocs()
	var buf []byte
	var key int64
	for b.Loop() {
		key = key*7919%100000 + 1
		buf = pointSelect(b, s, key, buf)
	}
}

func BenchmarkPointSelectAutocommit(b *testing.B) {
	c := openFile(b, tempFile(b), benchSchema)
	s := prepare(b, c, "SELECT name, n FROM t WHERE id = ?1")
	b.ReportAllocs()
	var buf []byte
	var key int64
	for b.Loop() {
		key = key*7919%100000 + 1
		buf = pointSelect(b, s, key, buf)
	}
}

// BenchmarkPointSelectParallel has a connection for each goroutine; run it with -cpu 1,2 to see how they scale.
func BenchmarkPointSelectParallel(b *testing.B) {
	path := tempFile(b)
	openFile(b, path, benchSchema)
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		c, err := Open(path, ReadOnly)
		if err != nil {
			b.Error(err)
			return
		}
		s, _, err := c.Prepare("SELECT name, n FROM t WHERE id = ?1")
		if err == nil {
			err = c.Exec("BEGIN")
		}
		if err != nil {
			b.Error(err)
			return
		}
		var buf []byte
		var key int64
		for pb.Next() {
			key = key*7919%100000 + 1
			if err := s.BindValue(1, value.Integer(key)); err != nil {
				b.Error(err)
			}
			if row, err := s.Step(); !row {
				b.Error(err)
			}
			buf = s.AppendColumnBytes(buf[:0], 0)
			if err := s.Reset(); err != nil {
				b.Error(err)
			}
		}
		if err := c.Close(); err != nil {
			b.Error(err)
		}
	})
}

// BenchmarkInsert inserts inside one transaction.
func BenchmarkInsert(b *testing.B) {
	noteKeys := func(u *PreUpdate) {
		if u.Table != "t" || u.NewRowid == 0 {
			panic("wrong change")
		}
	}
	readRow := func(u *PreUpdate) {
		for i := range u.Count() {
			if _, err := u.New(i); err != nil {
				panic(err)
			}
		}
	}
	for _, bb := range []struct {
		name string
		hook func(*PreUpdate)
	}{{"no hook", nil}, {"hook", noteKeys}, {"hook reading the row", readRow}} {
		b.Run(bb.name, func(b *testing.B) {
			c := openFile(b, tempFile(b), benchSchema+"DELETE FROM t")
			if err := c.SetPreUpdate(bb.hook); err != nil {
				b.Fatal(err)
			}
			s := prepare(b, c, "INSERT INTO t(name, n) VALUES(?1, ?2)")
			exec(b, c, "BEGIN")
			name := value.Text("name of the row")
			b.ReportAllocs()
			for b.Loop() {
				if err := s.BindValue(1, name); err != nil {
					b.Fatal(err)
				}
				if err := s.BindValue(2, value.Integer(5)); err != nil {
					b.Fatal(err)
				}
				if _, err := s.Step(); err != nil {
					b.Fatal(err)
				}
				if err := s.Reset(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkBindText(b *testing.B) {
	for _, n := range []int{16, 1 << 10, 64 << 10} {
		b.Run(fmt.Sprintf("%d bytes", n), func(b *testing.B) {
			s := prepare(b, open(b, ""), "SELECT ?1")
			v := value.TextBytes(make([]byte, n))
			b.SetBytes(int64(n))
			b.ReportAllocs()
			for b.Loop() {
				if err := s.BindValue(1, v); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkPrepare(b *testing.B) {
	c := open(b, "CREATE TABLE t(id INTEGER PRIMARY KEY, name TEXT, n INTEGER)")
	for _, authorizer := range []bool{false, true} {
		b.Run(fmt.Sprintf("authorizer=%v", authorizer), func(b *testing.B) {
			if authorizer {
				c.SetAuthorizer(func(Action, string, string, string, string) Auth { return AuthOK })
			}
			b.ReportAllocs()
			for b.Loop() {
				s, _, err := c.Prepare("SELECT name, n FROM t WHERE id = ?1")
				if err != nil {
					b.Fatal(err)
				}
				if err := s.Finalize(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
