package replica

import (
	"context"
	"encoding/binary"
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/nearside-dev/nearside/internal/rowcodec"
	"github.com/nearside-dev/nearside/sidecar/replica/replicatest"
)

// TestTailHasOldRows changes rows in one group and in several, and reads what they were before.
func TestTailHasOldRows(t *testing.T) {
	u := users()
	s, p := openMem(t, Options{}), replicatest.NewPrimary()
	one, two, three := user(1, "a", 1), user(1, "b", 1), user(1, "c", 1)
	apply(t, s, shop, p.Commit(replicatest.Schema(u), replicatest.Put(u, one, user(2, "x", 1))))
	d := database(t, s, shop)
	snap := snapshot(t, s, shop)
	at := snap.TailPosition()
	if err := snap.Close(); err != nil {
		t.Fatal(err)
	}
	apply(t, s, shop,
		p.Commit(replicatest.Put(u, two)),
		p.Commit(replicatest.Put(u, user(3, "new", 1))),
		p.Commit(replicatest.Put(u, user(0, "new", 1), three), replicatest.Delete(u, user(2, "", 0))))
	apply(t, s, shop, p.Commit(replicatest.Delete(u, one)))
	if err := d.AwaitRecord(t.Context(), at); err != nil {
		t.Fatal(err)
	}
	rowKey := func(r rowcodec.Row) string { return string(rowcodec.AppendRowKey(nil, u, r)) }
	value := func(r rowcodec.Row) string { return string(rowcodec.AppendRow(nil, u, r)) }
	want := []map[string]string{
		{rowKey(one): value(one)},
		{},
		{rowKey(one): value(two), rowKey(user(2, "", 0)): value(user(2, "x", 1))},
		{rowKey(one): value(three)},
	}
	var got []map[string]string
	for len(got) < len(want) {
		records, next, err := d.ReadTail(at, 3, 1<<20)
		if err != nil || len(records) == 0 {
			t.Fatalf("%d records, %v", len(records), err)
		}
		for _, r := range records {
			olds := make(map[string]string)
			for _, row := range r.Tables[0].Rows {
				if row.Old != nil {
					olds[string(row.Key)] = string(row.Old)
				}
			}
			if !r.Tables[0].OldKnown {
				t.Errorf("record %d: old rows are not known", r.Version)
			}
			got = append(got, olds)
		}
		at = next
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if records, _, err := d.ReadTail(at, 1, 1); err != nil || len(records) != 0 {
		t.Errorf("after the end: %d records, %v", len(records), err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := d.AwaitRecord(ctx, at); !errors.Is(err, context.Canceled) {
		t.Errorf("nothing to wait for: %v", err)
	}
}

// TestTailCutsOldRows checks that old rows go with their records, and count.
func TestTailCutsOldRows(t *testing.T) {
	u := users()
	s, p := openMem(t, Options{TailRecords: 8}), replicatest.NewPrimary()
	apply(t, s, shop, p.Commit(replicatest.Schema(u), replicatest.Put(u, user(1, "a", 0))))
	d := database(t, s, shop)
	first := snapshot(t, s, shop)
	at := first.TailPosition()
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	for i := range int64(50) {
		apply(t, s, shop, p.Commit(replicatest.Put(u, user(1, "a", i+1))))
		if n := countKeys(t, s, shop, spaceOld); n > 9 {
			t.Fatalf("old rows of %d records, of at most 9", n)
		}
	}
	if _, _, err := d.ReadTail(at, 1, 1); !errors.Is(err, ErrTailGap) {
		t.Errorf("read from before the tail: %v", err)
	}
	if err := d.AwaitRecord(t.Context(), at); !errors.Is(err, ErrTailGap) {
		t.Errorf("wait from before the tail: %v", err)
	}
	if n := countKeys(t, s, shop, spaceOld); n < 8 {
		t.Errorf("old rows of %d records, want 8", n)
	}
}

// FuzzDecodeOldRows decodes arbitrary bytes as the old rows of a record.
func FuzzDecodeOldRows(f *testing.F) {
	var o oldRows
	o.beginRecord()
	o.beginTable()
	o.add(0, []byte("a"))
	o.add(2, []byte("bc"))
	o.endTable(true)
	o.beginTable()
	o.endTable(false)
	o.endRecord()
	f.Add(o.of(0))
	f.Add([]byte{})
	f.Add(binary.AppendUvarint([]byte{1}, 1<<63))
	f.Fuzz(func(t *testing.T, b []byte) {
		tables := []TailTable{{Rows: make([]TailRow, 3)}, {Rows: make([]TailRow, 1)}}
		if err := decodeOldRows(b, tables); err != nil || len(b) == 0 {
			return
		}
		// What was understood is written in the same way, numbers of more bytes than they need apart.
		var again oldRows
		again.beginRecord()
		for i := range tables {
			again.beginTable()
			for j, row := range tables[i].Rows {
				if row.Old != nil {
					again.add(j, row.Old)
				}
			}
			again.endTable(tables[i].OldKnown)
		}
		again.endRecord()
		if out := again.of(0); len(out) > len(b) {
			t.Errorf("%x is written as %x", b, out)
		}
	})
}
