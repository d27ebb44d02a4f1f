package replica

import (
	"errors"
	"maps"
	"reflect"
	"slices"
	"testing"

	"google.golang.org/protobuf/proto"

	replicationv1 "github.com/nearside-dev/nearside/gen/nearside/replication/v1"
	"github.com/nearside-dev/nearside/internal/catalog"
	"github.com/nearside-dev/nearside/sidecar/replica/replicatest"
)

// parts are the messages of a snapshot of what p has: its Begin, a chunk of each table, Done.
func parts(p *replicatest.Primary, tables ...*catalog.Table) []*replicationv1.SnapshotResponse {
	checksum := p.Checksum()
	at := &replicationv1.LogPosition{Epoch: 1, Version: p.Version(), Checksum: checksum[:]}
	cat := &catalog.Catalog{Version: 1, NextID: 1 << 20, Tables: tables}
	out := []*replicationv1.SnapshotResponse{{Message: &replicationv1.SnapshotResponse_Begin{
		Begin: &replicationv1.SnapshotBegin{Position: at, Catalog: cat.ToProto()},
	}}}
	done := &replicationv1.SnapshotDone{Position: at}
	for _, t := range tables {
		out = append(out, &replicationv1.SnapshotResponse{Message: &replicationv1.SnapshotResponse_Chunk{Chunk: chunkOf(p, t, at)}})
		sum, _ := p.Sum(t).AppendBinary(nil) // never fails
		done.Sums = append(done.Sums, &replicationv1.SnapshotDone_TableSum{
			TableId: t.ID, Sum: sum, RowCount: uint64(len(p.Rows(t))),
		})
	}
	return append(out, &replicationv1.SnapshotResponse{Message: &replicationv1.SnapshotResponse_Done{Done: done}})
}

func chunkOf(p *replicatest.Primary, t *catalog.Table, at *replicationv1.LogPosition) *replicationv1.SnapshotChunk {
	c := &replicationv1.SnapshotChunk{TableId: t.ID, Position: at, LastOfTable: true}
	for _, key := range slices.Sorted(maps.Keys(p.Rows(t))) {
		c.Rows = append(c.Rows, &replicationv1.SnapshotChunk_Row{Key: []byte(key), Value: p.Rows(t)[key], Version: 1})
	}
	return c
}

// takeAll takes in messages as a follower does, until one is refused or is the last.
func takeAll(t *testing.T, s *Store, tables []uint32, messages ...*replicationv1.SnapshotResponse) (done bool, err error) {
	t.Helper()
	d := s.ensure(shop)
	b := d.building.Load()
	for _, m := range messages {
		if b, done, err = d.take(t.Context(), b, m, tables); err != nil || done {
			return done, err
		}
	}
	return false, nil
}

func TestSnapshotReplacesTheCopy(t *testing.T) {
	u := replicatest.WithIndex(users(), 30, "by_age", false, "age")
	p := replicatest.NewPrimary()
	s := openMem(t, Options{})
	apply(t, s, shop, p.Commit(replicatest.Schema(u), replicatest.Put(u, user(1, "a", 1), user(2, "b", 2))))
	old := snapshot(t, s, shop)
	defer old.Close()
	p.Commit(replicatest.Delete(u, user(1, "", 0)), replicatest.Put(u, user(3, "c", 3)))
	messages := parts(p, u)

	if done, err := takeAll(t, s, nil, messages[:2]...); done || err != nil {
		t.Fatal(done, err)
	}
	if _, version := database(t, s, shop).Applied(); version != 1 {
		t.Fatalf("version %d before the end", version)
	}
	if p, ok := database(t, s, shop).SnapshotProgress(); !ok || p.Rows != 2 {
		t.Fatalf("progress %v %v", p, ok)
	}
	if done, err := takeAll(t, s, nil, messages[2:]...); !done || err != nil {
		t.Fatal(done, err)
	}
	verify(t, s, shop, p, u)
	if n, err := old.RowCount(u); n != 2 || err != nil {
		t.Errorf("the old snapshot has %d rows: %v", n, err)
	}
	apply(t, s, shop, p.Commit(replicatest.Put(u, user(4, "d", 4)), replicatest.Delete(u, user(2, "", 0))))
	verify(t, s, shop, p, u)
}

func TestSnapshotThatIsRefused(t *testing.T) {
	u := users()
	for _, test := range []struct {
		name   string
		change func(messages []*replicationv1.SnapshotResponse) []*replicationv1.SnapshotResponse
	}{
		{"no begin", func(m []*replicationv1.SnapshotResponse) []*replicationv1.SnapshotResponse { return m[1:] }},
		{"begun twice", func(m []*replicationv1.SnapshotResponse) []*replicationv1.SnapshotResponse {
			return append(m[:1:1], m...)
		}},
		{"table twice", func(m []*replicationv1.SnapshotResponse) []*replicationv1.SnapshotResponse {
			return append(m[:2:2], m[1:]...)
		}},
		{"row lost", func(m []*replicationv1.SnapshotResponse) []*replicationv1.SnapshotResponse {
			m[1].GetChunk().Rows = m[1].GetChunk().Rows[1:]
			return m
		}},
		{"rows swapped", func(m []*replicationv1.SnapshotResponse) []*replicationv1.SnapshotResponse {
			r := m[1].GetChunk().Rows
			r[0], r[1] = r[1], r[0]
			return m
		}},
		{"other value", func(m []*replicationv1.SnapshotResponse) []*replicationv1.SnapshotResponse {
			v := m[1].GetChunk().Rows[0].Value
			v = append([]byte(nil), v...)
			v[len(v)-1] ^= 1
			m[1].GetChunk().Rows[0].Value = v
			return m
		}},
		{"of an older version", func(m []*replicationv1.SnapshotResponse) []*replicationv1.SnapshotResponse {
			m[1].GetChunk().Position = &replicationv1.LogPosition{}
			return m
		}},
		{"ends elsewhere", func(m []*replicationv1.SnapshotResponse) []*replicationv1.SnapshotResponse {
			m[2].GetDone().Position = proto.CloneOf(m[2].GetDone().Position)
			m[2].GetDone().Position.Version++
			return m
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			p := replicatest.NewPrimary()
			p.Commit(replicatest.Schema(u), replicatest.Put(u, user(1, "a", 1), user(2, "b", 2)))
			s := openMem(t, Options{})
			if done, err := takeAll(t, s, nil, test.change(parts(p, u))...); done && err == nil || !errors.Is(err, errBuild) {
				t.Errorf("done %v: %v", done, err)
			}
			if _, version := database(t, s, shop).Applied(); version != 0 {
				t.Errorf("version %d is served", version)
			}
			if err := database(t, s, shop).discardBuild(); err != nil {
				t.Fatal(err)
			}
			if done, err := takeAll(t, s, nil, parts(p, u)...); !done || err != nil {
				t.Errorf("the next one: done %v: %v", done, err)
			}
		})
	}
}

// TestTableIsRepaired has one of two tables differ: it cannot be read until its new copy, which the log's tail brings to
// where the database is, is in its place. The other is not touched.
func TestTableIsRepaired(t *testing.T) {
	u, other := replicatest.WithIndex(users(), 30, "by_age", false, "age"), replicatest.Table(11, "other", "id")
	p := replicatest.NewPrimary()
	s := openMem(t, Options{})
	s.repairs.Store(true)
	apply(t, s, shop, p.Commit(replicatest.Schema(u, other),
		replicatest.Put(u, user(1, "a", 1), user(2, "b", 2)), replicatest.Put(other, replicatest.Row(1))))
	d := database(t, s, shop)
	key := appendDataPrefix(nil, shop, d.state.Load().generation, u.ID, rowsIndex)
	key = append(key, slices.Sorted(maps.Keys(p.Rows(u)))[0]...)
	stored, err := get(s.db, key)
	if err != nil {
		t.Fatal(err)
	}
	stored[len(stored)-1] ^= 1
	if err := s.db.Set(key, stored, nil); err != nil {
		t.Fatal(err)
	}
	apply(t, s, shop, p.Commit(replicatest.Put(u, user(1, "changed", 1)), replicatest.Put(other, replicatest.Row(2))))
	if got := d.DivergedTables(); len(got) != 1 || got[0] != u.ID || d.Problem() != nil {
		t.Fatalf("tables %v, problem %v", got, d.Problem())
	}
	snap := snapshot(t, s, shop)
	defer snap.Close()
	if _, _, _, err := snap.GetRow(u, []byte("x")); !errors.Is(err, ErrDiverged) {
		t.Errorf("row of the table that differs: %v", err)
	}
	if _, err := snap.NewIndexIter(u, &u.Indexes[0], nil, nil, false); !errors.Is(err, ErrDiverged) {
		t.Errorf("its index: %v", err)
	}
	if n, err := snap.RowCount(other); n != 2 || err != nil {
		t.Errorf("the other has %d rows: %v", n, err)
	}
	messages := parts(p, u)
	apply(t, s, shop, p.Commit(replicatest.Put(u, user(3, "later", 3)), replicatest.Delete(u, user(2, "", 0))))
	if done, err := takeAll(t, s, []uint32{u.ID}, messages...); !done || err != nil {
		t.Fatal(done, err)
	}
	if got := d.DivergedTables(); len(got) != 0 {
		t.Errorf("still differ: %v", got)
	}
	verify(t, s, shop, p, u, other)
	apply(t, s, shop, p.Commit(replicatest.Put(u, user(1, "again", 9))))
	verify(t, s, shop, p, u, other)
}

// FuzzSnapshot takes in arbitrary messages between the good ones of a snapshot: what then is served is what the sums prove.
func FuzzSnapshot(f *testing.F) {
	u := users()
	p := replicatest.NewPrimary()
	p.Commit(replicatest.Schema(u), replicatest.Put(u, user(1, "a", 1), user(2, "b", 2)))
	good := parts(p, u)
	for i, m := range good {
		b, err := proto.Marshal(m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b, uint8(i))
		f.Add(b, uint8(0))
	}
	f.Add([]byte("x"), uint8(2))
	f.Fuzz(func(t *testing.T, b []byte, at uint8) {
		var m replicationv1.SnapshotResponse
		if proto.Unmarshal(b, &m) != nil {
			return
		}
		s := openMem(t, Options{})
		if m.GetDone() != nil {
			m.GetDone().MeshVersion = 0 // it would be waited for
		}
		i := min(int(at), len(good))
		messages := append(append(append([]*replicationv1.SnapshotResponse(nil), good[:i]...), &m), good[i:]...)
		done, err := takeAll(t, s, nil, messages...)
		d := database(t, s, shop)
		if stored := d.building.Load(); stored != nil {
			if _, err := decodeBuild(stored.encode()); err != nil {
				t.Fatal(err)
			}
		}
		if _, version := d.Applied(); version != 0 && (!done || err != nil) {
			t.Fatalf("version %d is served after %v", version, err)
		}
	})
}

// TestBuildRoundTrip reads stored builds back, those of the format before this one too.
func TestBuildRoundTrip(t *testing.T) {
	b := &build{
		generation: 3, tables: []uint32{4, 7}, begin: place{epoch: 1, version: 8}, at: place{epoch: 2, version: 9, checksum: [checksumSize]byte{1}},
		newest: 9, table: 7, after: []byte("key"), ended: true, rowsDone: true, rows: 5, total: 6, catalogVersion: 2, lacking: []uint32{9, 12},
		withheld: []string{"a", "people"},
	}
	stored := b.encode()
	got, err := decodeBuild(stored)
	if err != nil || !reflect.DeepEqual(got, b) {
		t.Errorf("%+v, %v", got, err)
	}
	// Without what is withheld, at the end.
	names := len(stored) - len(appendNames(nil, b.withheld))
	b.withheld = nil
	if got, err := decodeBuild(slices.Concat([]byte{2}, stored[1:names])); err != nil || !reflect.DeepEqual(got, b) {
		t.Errorf("of format 2: %+v, %v", got, err)
	}
	// Without the bytes before the tables and what is lacking behind them, each a number and two ids.
	at := names - 3 - 3
	old := slices.Concat([]byte{1}, stored[1:at-1], stored[at:at+3])
	b.lacking = nil
	if got, err := decodeBuild(old); err != nil || !reflect.DeepEqual(got, b) {
		t.Errorf("of format 1: %+v, %v", got, err)
	}
	for n := range stored {
		if _, err := decodeBuild(stored[:n]); !errors.Is(err, ErrCorrupt) {
			t.Errorf("the first %d bytes: %v", n, err)
		}
	}
}
