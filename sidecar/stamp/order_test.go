package stamp_test

import (
	"errors"
	"math"
	"testing"

	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/sidecar/memory"
	"github.com/nearside-dev/nearside/sidecar/stamp"
)

// newRace returns a world in which users 1, 2 and 3 are, and 1 and 3 are in memory.
func newRace(t *testing.T) *world {
	t.Helper()
	w := newWorld(t)
	w.put(map[int64]*user{1: {email: "a"}, 2: {email: "b"}, 3: {email: "c"}})
	for _, id := range []int64{1, 3} {
		if _, err := w.get("", id, ""); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := w.query("", allUsers); err != nil {
		t.Fatal(err)
	}
	w.settle()
	return w
}

// next is a commit that changes users 1 and 2, and not 3.
func (w *world) next() {
	n := int64(len(w.history))
	w.put(map[int64]*user{1: {email: "a", age: n}, 2: {email: "b", age: n}})
}

// readAll reads in all ways, twice, and returns the first answer that is wrong. The bookmark of each answer is asked of the next.
func (w *world) readAll() error {
	mark := ""
	for range 2 {
		for _, read := range []func() (*datav1.Answer, error){
			func() (*datav1.Answer, error) { return w.get(mark, 3, "") },
			func() (*datav1.Answer, error) { return w.get(mark, 1, "") },
			func() (*datav1.Answer, error) { return w.get(mark, 0, "a") },
			func() (*datav1.Answer, error) { return w.batch(mark, 3, 1, 2) },
			func() (*datav1.Answer, error) { return w.list(mark, "by_age") },
			func() (*datav1.Answer, error) { return w.query(mark, allUsers) },
		} {
			a, err := read()
			if err != nil {
				return err
			}
			mark = max(mark, a.GetBookmark())
		}
		w.settle()
	}
	return nil
}

// once returns f for the first call only: what f does may come to the same place again.
func once(f func()) func() {
	called := false
	return func() {
		if !called {
			called = true
			f()
		}
	}
}

// Nothing is wrong whatever comes in between, as long as the order is right.
func TestRightOrder(t *testing.T) {
	for _, tt := range []struct {
		name  string
		arm   func(w *world, read func())
		apply bool // the commit is made by whoever is armed, in the middle of a read
	}{
		{name: "between raise and commit", arm: func(w *world, read func()) {
			w.store.Stamps().SetSteps(func(raise func(), commit func() error, publish func()) error {
				raise()
				read()
				err := commit()
				publish()
				return err
			})
		}},
		{name: "between commit and publish", arm: func(w *world, read func()) {
			w.store.Stamps().SetSteps(func(raise func(), commit func() error, publish func()) error {
				raise()
				err := commit()
				read()
				publish()
				return err
			})
		}},
		{name: "before the snapshot is opened", apply: true, arm: func(w *world, _ func()) {
			w.store.Stamps().SetReading(once(w.next))
		}},
		{name: "before the stamps are looked at", apply: true, arm: func(w *world, _ func()) {
			w.store.Stamps().SetHolding(once(w.next))
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newRace(t)
			read := func() {
				if err := w.readAll(); err != nil {
					t.Error(err)
				}
			}
			tt.arm(w, read)
			if !tt.apply {
				w.next()
			}
			read()
			w.next()
			read()
		})
	}
}

// A batch whose rows in memory are older than the snapshot of the others is read again, whole.
func TestBatchRace(t *testing.T) {
	w := newRace(t)
	w.store.Stamps().SetReading(once(w.next))
	a, err := w.batch("", 1, 3, 2)
	if err != nil || a.GetSource() != datav1.Source_SOURCE_REPLICA || a.GetRowsRead() != 3 {
		t.Errorf("%v, %v", a, err)
	}
	w.settle()
	if a, err = w.batch("", 1, 3, 2); err != nil || a.GetSource() != datav1.Source_SOURCE_MEMORY {
		t.Errorf("%v, %v", a, err)
	}
}

var errBroken = errors.New("commit failed, as the test wants it")

// Each of the orders is needed: with any of them broken there is a moment at which the same checks find an answer that is wrong.
func TestBrokenOrder(t *testing.T) {
	for name, run := range map[string]func(w *world) error{
		"change: commit, raise, publish": func(w *world) (found error) {
			w.store.Stamps().SetSteps(func(raise func(), commit func() error, publish func()) error {
				err := commit()
				_, found = w.batch("", 1, 2) // 1 from memory, 2 from a snapshot that has the commit
				raise()
				publish()
				return err
			})
			w.next()
			return found
		},
		"change: commit, publish, raise": func(w *world) (found error) {
			w.store.Stamps().SetSteps(func(raise func(), commit func() error, publish func()) error {
				err := commit()
				publish()
				_, found = w.get("", 1, "")
				raise()
				return err
			})
			w.next()
			return found
		},
		"change: commit, publish, raise; a result": func(w *world) (found error) {
			w.store.Stamps().SetSteps(func(raise func(), commit func() error, publish func()) error {
				err := commit()
				publish()
				_, found = w.query("", allUsers)
				raise()
				return err
			})
			w.next()
			return found
		},
		"keep: a result, stamp after the snapshot": func(w *world) error {
			result, reading := w.readResult()
			w.next()
			reading.Until = w.store.Stamps().Last()
			w.keepResult(result, reading, w.table.ID)
			_, err := w.query("", allUsers)
			return err
		},
		"keep: a result, without a table that it reads": func(w *world) error {
			result, reading := w.readResult()
			w.keepResult(result, reading, w.table.ID+1)
			w.next()
			_, err := w.query("", allUsers)
			return err
		},
		"flight: not asked again by those who wait": func(w *world) error {
			result, _ := w.readResult() // what the first one brings
			w.next()
			return w.wrong(w.moment(), "", resultText(result), allUsers.want(nil))
		},
		"change: raise, publish, commit": func(w *world) error {
			w.store.Stamps().SetSteps(func(raise func(), _ func() error, publish func()) error {
				raise()
				publish()
				return errBroken
			})
			if err := w.store.ApplyRecords(shopID, [][]byte{w.change(map[int64]*user{1: {email: "x"}})}); !errors.Is(err, errBroken) {
				w.tb.Errorf("apply: %v", err)
			}
			_, err := w.get("", 1, "") // of a state that nothing stands behind
			return err
		},
		"keep: stamp after the snapshot": func(w *world) error {
			row, reading := w.readRow(1)
			w.next()
			reading.Until = w.store.Stamps().Last()
			w.keepRow(1, row, reading)
			_, err := w.get("", 1, "")
			return err
		},
		"keep: while a commit is on its way": func(w *world) error {
			w.store.Stamps().SetSteps(func(raise func(), commit func() error, publish func()) error {
				raise()
				row, reading := w.readRow(1)
				if reading.Until != 0 {
					w.tb.Error("a reading during a commit is known")
				}
				d, _ := w.store.Database(shopID)
				m, _ := d.Moment()
				w.keepRow(1, row, stamp.Reading{At: m.Stamp(), Until: w.store.Stamps().Last()})
				err := commit()
				publish()
				return err
			})
			w.next()
			_, err := w.get("", 1, "")
			return err
		},
		"hit: stamps before the moment": func(w *world) error {
			row := w.lookup(1, math.MaxUint64)
			w.next()
			return w.wrongAt(w.moment(), row)
		},
		"hit: newer than the moment": func(w *world) error {
			m := w.moment()
			w.next()
			if err := w.readAll(); err != nil {
				w.tb.Error(err)
			}
			return w.wrongAt(m, w.lookup(1, math.MaxUint64))
		},
		"batch: not looked at again": func(w *world) error {
			row := w.lookup(1, w.stampNow())
			w.next()
			return w.wrongAt(w.moment(), row) // the moment stands for the others' snapshot
		},
	} {
		t.Run(name, func(t *testing.T) {
			err := run(newRace(t))
			if err == nil {
				t.Fatal("nothing was found wrong")
			}
			t.Log(err)
		})
	}
}

func (w *world) stampNow() stamp.Stamp {
	d, _ := w.store.Database(shopID)
	m, _ := d.Moment()
	return m.Stamp()
}

// moment returns the answer that a reader would give now.
func (w *world) moment() *datav1.Answer {
	a, err := w.get("", 3, "")
	if err != nil || a.GetSource() != datav1.Source_SOURCE_MEMORY {
		w.tb.Fatalf("user 3 is not in memory: %v, %v", a, err)
	}
	return a
}

// readRow reads a user from the replica, and when.
func (w *world) readRow(id int64) (*datav1.GetResponse, stamp.Reading) {
	d, _ := w.store.Database(shopID)
	snap, err := d.Snapshot()
	if err != nil {
		w.tb.Fatal(err)
	}
	defer snap.Close()
	w.mu.Lock()
	u := w.history[snap.Version()].rows[id]
	w.mu.Unlock()
	return &datav1.GetResponse{Row: &datav1.Row{Values: []*datav1.Value{
		integer(id), text(u.email), integer(u.age),
	}}}, snap.Reading()
}

func (w *world) keepRow(id int64, res *datav1.GetResponse, reading stamp.Reading) {
	key, err := memory.EncodeKey(idKey(id))
	if err != nil {
		w.tb.Fatal(err)
	}
	slot := w.store.Stamps().Row(shopID, w.table.ID, rowKey(w.table, id))
	w.cache.KeepRow(reading, slot, shopID, "users", key, res.GetColumns(), res.GetRow())
	w.settle()
}

func (w *world) lookup(id int64, now stamp.Stamp) *datav1.Row {
	key, err := memory.EncodeKey(idKey(id))
	if err != nil {
		w.tb.Fatal(err)
	}
	row, ok := w.cache.LookupKey(now, shopID, "users", key)
	if !ok {
		w.tb.Fatalf("user %d is not in memory", id)
	}
	decoded, err := row.Decode()
	if err != nil {
		w.tb.Fatal(err)
	}
	return decoded
}

func (w *world) wrongAt(a *datav1.Answer, row *datav1.Row) error {
	return w.wrong(a, "", rowText(row), func(s *state) string { return s.text(1) })
}
