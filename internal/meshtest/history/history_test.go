package history_test

import (
	"errors"
	"fmt"
	"testing"

	"github.com/nearside-dev/nearside/internal/historytest"
	"github.com/nearside-dev/nearside/internal/meshdb"
	"github.com/nearside-dev/nearside/internal/rpcerr"
	"github.com/nearside-dev/nearside/sidecar/replica"
)

// transactions is how many a history has. Most of them commit.
const transactions = 70

func TestReplicasEqualThePrimary(t *testing.T) {
	from, to := historytest.Seeds(t, 30)
	for seed := from; seed < to; seed++ {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			whole := 0
			if seed%3 == 2 {
				whole = 100 // most tables that are made or rewritten are copied
			}
			r := &run{t: t, o: startOrigin(t, whole), h: historytest.New(seed), complaints: new(complaints)}
			defer func() {
				if t.Failed() {
					t.Logf("history:\n%s", r.h)
				}
			}()
			r.run()
			if said := r.complaints.all(); len(said) > 0 {
				t.Errorf("a replica complained: %q", said)
			}
		})
	}
}

// run is one history and the copies made of it.
type run struct {
	t          *testing.T
	o          *origin
	h          *historytest.History
	complaints *complaints

	running *replica.Store // gets each record by itself
	grouped *replica.Store // gets records in groups
	late    *replica.Store // began with a snapshot; nil before

	beats <-chan struct{}    // of the late one's follower
	asked chan chan struct{} // to be answered before the next chunk is read

	version uint64
	fed     uint64 // the version that grouped has
}

func (r *run) run() {
	r.running, r.grouped = openStore(r.t, r.complaints), openStore(r.t, r.complaints)
	for _, s := range []*replica.Store{r.running, r.grouped} {
		if err := s.ApplyRecords(meshdb.DatabaseID, r.o.meshRecords); err != nil {
			r.t.Fatal(err)
		}
	}
	begin := 3 + r.h.IntN(transactions/2)
	for i := range transactions {
		if i >= begin && r.late == nil && r.version > 2 {
			r.startLate()
		}
		if err := r.step(); err != nil {
			r.t.Fatal(err)
		}
		if r.late != nil {
			r.compareLate()
		}
	}
	if r.late == nil {
		r.t.Fatalf("only %d commits", r.version)
	}
}

// step runs one transaction and compares the running replicas.
func (r *run) step() error {
	version, err := r.o.transact(r.h.Next(r.o.schema()))
	if err != nil {
		if _, ok := rpcerr.FromError(err); !ok {
			return fmt.Errorf("the engine failed: %w", err)
		}
		return nil
	}
	if version == 0 {
		return nil
	}
	r.version = version
	records, err := r.o.log.Read(shop, version-1, 1)
	if err != nil {
		return err
	}
	if err := r.running.ApplyRecords(shop, records); err != nil {
		return err
	}
	if err := same(r.o.db, r.running); err != nil {
		return fmt.Errorf("running replica at version %d: %w", version, err)
	}
	if r.h.IntN(3) > 0 {
		return nil
	}
	if records, err = r.o.log.Read(shop, r.fed, 1<<30); err != nil {
		return err
	}
	r.fed = version
	if err := r.grouped.ApplyRecords(shop, records); err != nil {
		return err
	}
	if err := same(r.o.db, r.grouped); err != nil {
		return fmt.Errorf("replica fed in groups, at version %d: %w", version, err)
	}
	return nil
}

// startLate begins a replica whose first record is trimmed already, and has commits made while its snapshot is taken.
func (r *run) startLate() {
	r.t.Helper()
	if err := r.feedGrouped(); err != nil {
		r.t.Fatal(err)
	}
	trim(r.t, r.o)
	done := make(chan struct{})
	r.asked = make(chan chan struct{})
	r.t.Cleanup(func() { close(done) })
	r.o.chunk = func(n int) {
		if n > 40 {
			return // it has to end
		}
		ready := make(chan struct{})
		select {
		case r.asked <- ready:
			<-ready
		case <-done:
		}
	}
	r.late = openStore(r.t, r.complaints)
	r.beats = r.o.follow(r.late)
	for {
		select {
		case ready := <-r.asked:
			var err error
			for range r.h.IntN(3) {
				err = errors.Join(err, r.step())
			}
			close(ready)
			if err != nil {
				r.t.Fatal(err)
			}
		case <-r.beats:
			if said := r.complaints.all(); len(said) > 0 {
				r.t.Fatalf("the snapshot failed: %q", said)
			}
			if d, ok := r.late.Database(shop); ok && d.Problem() == nil {
				if err := d.WaitFor(r.t.Context(), 1, r.version); err != nil {
					r.t.Fatal(err)
				}
				r.compareLate()
				return
			}
		}
	}
}

// feedGrouped gives the replica that is fed in groups all there is, before the log is trimmed.
func (r *run) feedGrouped() error {
	records, err := r.o.log.Read(shop, r.fed, 1<<30)
	if err != nil || len(records) == 0 {
		return err
	}
	r.fed = r.version
	return r.grouped.ApplyRecords(shop, records)
}

func (r *run) compareLate() {
	r.t.Helper()
	d, _ := r.late.Database(shop)
	if err := d.WaitFor(r.t.Context(), 1, r.version); err != nil {
		r.t.Fatal(err)
	}
	for len(d.DivergedTables()) > 0 {
		if said := r.complaints.all(); len(said) > 0 {
			r.t.Fatalf("a replaced table is not copied: %q", said)
		}
		select {
		case <-r.beats:
		case ready := <-r.asked:
			close(ready)
		}
	}
	if err := same(r.o.db, r.late); err != nil {
		r.t.Fatalf("replica from a snapshot, at version %d: %v", r.version, err)
	}
}
