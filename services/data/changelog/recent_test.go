package changelog

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
)

// TestRecentAgainstModel appends, cuts and reads at random: what is answered is what was appended under those versions, nothing that
// was forgotten, and never more than the limit is kept.
func TestRecentAgainstModel(t *testing.T) {
	const databases, limit = 5, 4000
	for seed := range uint64(20) {
		random := rand.New(rand.NewPCG(seed, 1))
		c := &recent{limit: limit}
		appended := make([][][]byte, databases) // by database and version-1
		forgotten := make([]uint64, databases)  // up to which version
		hits := 0
		for step := range 3000 {
			id := random.IntN(databases)
			all := appended[id]
			switch version := uint64(len(all)) + 1; random.IntN(10) {
			case 0:
				before := 1 + random.Uint64N(version)
				c.forget(uint32(id), before)
				forgotten[id] = max(forgotten[id], before-1)
			case 1, 2, 3, 4:
				record := fmt.Append(nil, id, version, step)
				record = append(record, make([]byte, random.IntN(300))...)
				if random.IntN(50) == 0 {
					record = append(record, make([]byte, limit)...) // not kept
				}
				appended[id] = append(all, record)
				c.add(uint32(id), version, record)
			default:
				after := random.Uint64N(version)
				last := after + random.Uint64N(version-after)
				most := 1 + random.IntN(600)
				size := 0
				for i, record := range c.read(uint32(id), after, last, most) {
					v := after + uint64(i) + 1
					if v > last || v <= forgotten[id] || !bytes.Equal(record, all[v-1]) {
						t.Fatalf("seed %d: database %d: version %d, up to %d, after %d", seed, id, v, last, after)
					}
					if size += len(record); i > 0 && size > most {
						t.Fatalf("seed %d: %d bytes for %d", seed, size, most)
					}
					hits++
				}
			}
			if c.size > limit || c.size != sizeOf(c) || len(c.runs) != c.order.Len() {
				t.Fatalf("seed %d: says %d bytes, has %d, the limit is %d; %d runs, %d in order", seed, c.size, sizeOf(c), limit, len(c.runs), c.order.Len())
			}
		}
		if hits == 0 {
			t.Errorf("seed %d: nothing was kept", seed)
		}
	}
}

func sizeOf(c *recent) (size int) {
	for _, r := range c.runs {
		for _, record := range r.records {
			size += len(record)
		}
	}
	return size
}

// TestRecentRecordsNeedNoDisk reads records that the store does not have any more: they come from memory, up to what is published,
// until they are trimmed or their database is unpublished.
func TestRecentRecordsNeedNoDisk(t *testing.T) {
	l := openLog(t, vfs.NewMem())
	defer func() { _ = l.Close() }()
	h := appendRun(t, l, 7, Head{}, 50)
	l.Publish(7, h)
	appendRun(t, l, 7, h, 1) // not published
	for v := range uint64(51) {
		if err := l.db.Delete(versionKey(spaceRecord, 7, v+1), pebble.Sync); err != nil {
			t.Fatal(err)
		}
	}
	if records, err := l.Read(7, 3, 1<<20); err != nil || len(records) != 47 {
		t.Errorf("%d records, %v", len(records), err)
	}
	if l.RecentBytes() == 0 {
		t.Error("nothing is kept")
	}
	l.recent.forget(7, 10)
	if records, err := l.Read(7, 8, 1<<20); len(records) > 0 {
		t.Errorf("forgotten, and read: %d records, %v", len(records), err)
	}
	l.Unpublish(7)
	l.Publish(7, h)
	if records, err := l.Read(7, 20, 1<<20); len(records) > 0 || l.RecentBytes() != 0 {
		t.Errorf("unpublished, and read: %d records, %v; %d bytes", len(records), err, l.RecentBytes())
	}
}

// TestRecentOfAFailedAppend has an append fail: its records are not kept.
func TestRecentOfAFailedAppend(t *testing.T) {
	l := openLog(t, vfs.NewMem())
	defer func() { _ = l.Close() }()
	l.Publish(7, appendRun(t, l, 7, Head{}, 2))
	before := l.RecentBytes()
	l.disk.Fail(errors.New("disk"))
	b := l.NewBatch(7)
	if err := b.Record(3, record(t, 3, Checksum{}, "x")); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(b.Commit(), b.Close()); err == nil {
		t.Error("a frozen disk took a batch")
	}
	if l.RecentBytes() != before {
		t.Error("its record is kept")
	}
}

// BenchmarkFollow reads groups of records as a follower does that has fallen a little behind.
func BenchmarkFollow(b *testing.B) {
	for _, keep := range []int{-1, DefaultRecentBytes} {
		b.Run(fmt.Sprintf("memory=%t", keep > 0), func(b *testing.B) {
			l, err := Open(b.TempDir(), Options{RecentBytes: keep})
			if err != nil {
				b.Fatal(err)
			}
			defer func() { _ = l.Close() }()
			h := Head{}
			batch := l.NewBatch(7)
			for range 10_000 {
				r := record(b, h.Version+1, h.Checksum, string(make([]byte, 200)))
				h = Head{Epoch: 1, Version: h.Version + 1, Checksum: ChecksumOf(r)}
				if err := batch.Record(h.Version, r); err != nil {
					b.Fatal(err)
				}
			}
			if err := errors.Join(batch.Commit(), batch.Close()); err != nil {
				b.Fatal(err)
			}
			l.Publish(7, h)
			b.ReportAllocs()
			for b.Loop() {
				if records, err := l.Read(7, h.Version-50, 1<<20); err != nil || len(records) != 50 {
					b.Fatal(len(records), err)
				}
			}
		})
	}
}
