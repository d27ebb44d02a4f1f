package replica

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/proto"

	replicationv1 "github.com/nearside-dev/nearside/gen/nearside/replication/v1"
	"github.com/nearside-dev/nearside/internal/catalog"
	"github.com/nearside-dev/nearside/sidecar/replica/replicatest"
	"github.com/nearside-dev/nearside/sidecar/stamp"
)

// TestWithheldNamesAreStored reads a state with names back, and one of the format before.
func TestWithheldNamesAreStored(t *testing.T) {
	a := newApplied(3, problemNone)
	a.version, a.epoch, a.catalogVersion, a.diverged = 9, 1, 2, []uint32{5}
	a.withheld = []string{"", "people"}
	stored := a.encode()
	got, err := decodeApplied(stored)
	if err != nil || !slices.Equal(got.withheld, a.withheld) || !slices.Equal(got.diverged, a.diverged) {
		t.Errorf("%+v, %v", got, err)
	}
	old := slices.Concat([]byte{3}, stored[1:len(stored)-len(appendNames(nil, a.withheld))])
	if got, err := decodeApplied(old); err != nil || got.withheld != nil || got.version != 9 || !slices.Equal(got.diverged, a.diverged) {
		t.Errorf("of format 3: %+v, %v", got, err)
	}
	for n := range stored {
		if _, err := decodeApplied(stored[:n]); !errors.Is(err, ErrCorrupt) {
			t.Errorf("the first %d bytes: %v", n, err)
		}
	}
}

func TestPlacementIsRefused(t *testing.T) {
	s := openMem(t, Options{})
	if err := s.ApplyPlacement(&replicationv1.Placement{DatabaseId: shop}); !errors.Is(err, ErrDropped) {
		t.Errorf("no such copy: %v", err)
	}
	d := s.ensure(shop)
	before := d.state.Load()
	for name, test := range map[string]struct {
		m    *replicationv1.Placement
		want error
	}{
		"another version": {&replicationv1.Placement{DatabaseId: shop, Version: 7}, ErrGap},
		"unsorted names":  {&replicationv1.Placement{DatabaseId: shop, Withheld: []string{"b", "a"}}, ErrRecord},
		"an id twice": {&replicationv1.Placement{DatabaseId: shop, Catalog: &replicationv1.Catalog{Version: 1, Tables: []*replicationv1.Catalog_Table{
			{Id: 1, Name: "a"}, {Id: 1, Name: "b"},
		}}}, ErrRecord},
	} {
		if err := s.ApplyPlacement(test.m); !errors.Is(err, test.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if !reflect.DeepEqual(d.state.Load(), before) {
		t.Error("the copy changed")
	}
}

// TestErasingWaitsForReaders has readers before and after the call that waits for those before.
func TestErasingWaitsForReaders(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var r readers
		early := r.enter()
		done := make(chan struct{})
		go func() {
			defer close(done)
			r.await(context.Background())
		}()
		time.Sleep(time.Minute)
		late := r.enter()
		select {
		case <-done:
			t.Error("it did not wait")
		default:
		}
		r.leave(early)
		// The late one is of the epoch that it waits for next: it may be one that was late to count itself.
		time.Sleep(time.Minute)
		r.leave(late)
		<-done
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		r.enter()
		r.await(ctx)
		if ctx.Err() == nil {
			t.Error("it returned although a reader is there")
		}
	})
}

// TestPlacementErases withholds a table while a reader still sees it: what it sees leaves the disk after it.
func TestPlacementErases(t *testing.T) {
	const marker = "Zq7marker"
	dir := t.TempDir()
	var erasing func()
	erased, inTime := 0, 0
	s, err := OpenStore(dir, Options{
		BeforeErase: func(uint32) { erasing() },
		OnErase:     func(uint32) { erased++ },
	})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}()
	u := users()
	p := replicatest.NewPrimary()
	apply(t, s, shop, p.Commit(replicatest.Schema(u), replicatest.Put(u, user(1, marker, 1), user(2, marker, 2))))
	apply(t, s, shop, p.Commit(replicatest.Put(u, user(1, marker+" changed", 1))))
	d := database(t, s, shop)
	if err := d.setProblem(problemNone); err != nil {
		t.Fatal(err)
	}
	snap, err := d.Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	kept, last := snap.Reading(), s.Stamps().Last()
	erasing = func() {
		if inTime++; inTime > 1 {
			return // it is gone already
		}
		// Readers still find the table here, and nothing that they read may be kept.
		now, err := d.Snapshot()
		if err != nil {
			t.Error(err)
			return
		}
		slot := now.TableSlot(u.ID)
		if now.Catalog().TableByID(u.ID) == nil || len(now.Withheld())+len(d.Withheld()) > 0 || erased > 0 {
			t.Errorf("before it is deleted it is gone: %+v", now.applied)
		}
		if now.Reading() != (stamp.Reading{}) || s.Stamps().Holds(kept, last, shop, slot) {
			t.Error("what was read may be kept")
		}
		if _, ok := d.Now(); ok {
			t.Error("what is read may be kept")
		}
		if err := now.Close(); err != nil {
			t.Error(err)
		}
	}
	m := &replicationv1.Placement{
		DatabaseId: shop, Version: 2, Withheld: []string{"users"}, Catalog: &replicationv1.Catalog{Version: 1, Partial: true},
	}
	for range 2 { // the second one changes nothing
		if err := s.ApplyPlacement(m); err != nil {
			t.Fatal(err)
		}
	}
	if _, _, ok, err := snap.GetRow(snap.Catalog().Tables[0], firstKey(t, snap)); !ok || err != nil {
		t.Errorf("the reader has lost its row: %v", err)
	}
	if err := snap.Close(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if err := s.eraser.Wait(ctx); err != nil {
		t.Fatal(err)
	}
	for ctx.Err() == nil && holds(t, dir, marker) { // Pebble deletes the files that it does not need a moment later
		time.Sleep(10 * time.Millisecond)
	}
	if ctx.Err() != nil {
		t.Error("it is still on the disk")
	}
	now, err := d.Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	if now.Catalog().TableByID(u.ID) != nil || !now.Catalog().IsPartial() || now.TailFirst() != 3 ||
		!slices.Equal(now.Withheld(), []string{"users"}) || erased == 0 || inTime != erased {
		t.Errorf("%+v, erased %d, %d in time", now.applied, erased, inTime)
	}
	if err := now.Close(); err != nil {
		t.Fatal(err)
	}
	// It may have it again: the table is there, and differs.
	m.Withheld, m.Catalog = nil, (&catalog.Catalog{Version: 1, NextID: 1 << 20, Tables: []*catalog.Table{u}}).ToProto()
	if err := s.ApplyPlacement(m); err != nil {
		t.Fatal(err)
	}
	if got := d.DivergedTables(); !slices.Equal(got, []uint32{u.ID}) {
		t.Errorf("to be copied: %v", got)
	}
}

func firstKey(t *testing.T, s *Snapshot) []byte {
	t.Helper()
	it, err := s.NewRowIter(s.Catalog().Tables[0], nil, nil, false)
	if err != nil || !it.Next() {
		t.Fatal("no row", err)
	}
	key := bytes.Clone(it.Key())
	if err := it.Close(); err != nil {
		t.Fatal(err)
	}
	return key
}

// holds reports whether a file of a folder has a text.
func holds(t *testing.T, dir, text string) (found bool) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return nil //nolint:nilerr // deleted meanwhile
		}
		content, err := os.ReadFile(path)
		found = found || err == nil && bytes.Contains(content, []byte(text))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// FuzzApplyPlacement applies any message to a copy. After an error the copy is as it was; else it says what it was told.
func FuzzApplyPlacement(f *testing.F) {
	u := users()
	p := replicatest.NewPrimary()
	first := p.Commit(replicatest.Schema(u), replicatest.Put(u, user(1, "a", 1)))
	for _, m := range []*replicationv1.Placement{
		{DatabaseId: shop, Version: 1, Withheld: []string{"users"}, Catalog: &replicationv1.Catalog{Version: 1, Partial: true}},
		{DatabaseId: shop, Version: 1, Catalog: (&catalog.Catalog{Version: 1, NextID: 1 << 20, Tables: []*catalog.Table{u}}).ToProto()},
		{DatabaseId: shop, Version: 2},
	} {
		b, err := proto.Marshal(m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var m replicationv1.Placement
		if proto.Unmarshal(b, &m) != nil {
			return
		}
		m.DatabaseId = shop
		s := openMem(t, Options{})
		apply(t, s, shop, first)
		d := database(t, s, shop)
		before := d.state.Load()
		if err := s.ApplyPlacement(&m); err != nil {
			if d.state.Load() != before {
				t.Fatalf("the copy changed: %v", err)
			}
			return
		}
		stored, err := readState(s.db, shop)
		if err != nil || !slices.Equal(stored.withheld, m.GetWithheld()) || !bytes.Equal(stored.encode(), d.state.Load().encode()) {
			t.Fatalf("%+v, %v", stored, err)
		}
	})
}
