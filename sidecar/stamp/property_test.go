package stamp_test

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"

	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
)

const (
	ids      = 24
	versions = 300
	readers  = 4
)

// TestReadsAreOfTheirBookmark reads in all ways while the database is written, altered, replaced, dropped and copied anew, with
// a memory too small for all of it. Each answer must be exactly what its bookmark's version has, so it is not older than the
// bookmark, and a batch or a page is of one version; and a session's bookmark never goes back.
func TestReadsAreOfTheirBookmark(t *testing.T) {
	w := newWorld(t)
	seed := uint64(1)
	for id := int64(1); id <= ids; id++ {
		w.put(map[int64]*user{id: {email: fmt.Sprintf("e%d", id)}})
	}
	var done atomic.Bool
	var bySource [datav1.Source_SOURCE_PRIMARY + 1]atomic.Int64
	var wg sync.WaitGroup
	for reader := range readers {
		wg.Go(func() {
			random := rand.New(rand.NewPCG(seed, uint64(reader)))
			mark := ""
			for n := 0; !done.Load(); n++ {
				a, err := w.readSomething(random, mark)
				if err != nil {
					t.Errorf("reader %d, read %d: %v", reader, n, err)
					return
				}
				bySource[a.GetSource()].Add(1)
				mark = max(mark, a.GetBookmark())
				if random.IntN(20) == 0 {
					mark = "" // another session
				}
			}
		})
	}
	w.writeMuch(rand.New(rand.NewPCG(seed, 99)))
	done.Store(true)
	wg.Wait()
	t.Logf("hot methods: %d rows, %d batches", w.now.Load(), w.batchesNow.Load())
	if w.now.Load() == 0 || w.batchesNow.Load() == 0 {
		t.Error("a hot method never answered")
	}
	for _, source := range []datav1.Source{datav1.Source_SOURCE_MEMORY, datav1.Source_SOURCE_REPLICA} {
		t.Logf("%v: %d answers", source, bySource[source].Load())
		if bySource[source].Load() == 0 {
			t.Errorf("no answer from %v", source)
		}
	}
}

func (w *world) readSomething(random *rand.Rand, mark string) (*datav1.Answer, error) {
	id := 1 + random.Int64N(ids+2)
	switch random.IntN(16) {
	case 0, 1, 2:
		return w.get(mark, id, "")
	case 3, 4:
		return w.get(mark, 0, fmt.Sprintf("e%d", id))
	case 5:
		return w.list(mark, "")
	case 6:
		return w.list(mark, "by_age")
	case 7, 8:
		return w.query(mark, allUsers)
	case 9:
		return w.query(mark, spelled(random, oneUser), integer(id))
	case 10:
		return w.execute(mark, usersOfAView)
	case 11, 12:
		return w.getNow(mark, id)
	case 13, 14:
		return w.batchNow(mark, id, id%ids+1, (id+1)%ids+1, (id+7)%ids+1)
	default:
		return w.batch(mark, id, id%ids+1, (id+1)%ids+1, (id+7)%ids+1)
	}
}

// writeMuch changes users, moves emails from one to another, and now and then does what changes everything.
func (w *world) writeMuch(random *rand.Rand) {
	id := uint32(10)
	for n := range versions {
		if w.tb.Failed() {
			return
		}
		switch {
		case n%150 == 149:
			id += 10
			w.schema(id, w.present.wide)
		case n%100 == 99:
			w.drop()
		case n%75 == 74:
			w.schema(id, !w.present.wide)
		default:
			var group [][]byte
			for i := range 1 + random.IntN(3) {
				group = append(group, w.change(w.someChange(random, int64(3*n+i))))
			}
			w.apply(group...)
		}
	}
}

func (w *world) someChange(random *rand.Rand, age int64) map[int64]*user {
	a, b := 1+random.Int64N(ids), 1+random.Int64N(ids)
	ua, ub := w.present.rows[a], w.present.rows[b]
	free := func(id int64) string { // an email that nobody ever had
		return fmt.Sprintf("own%d.%d", id, age)
	}
	if ua.email == "" {
		ua.email = free(a)
	}
	if ub.email == "" {
		ub.email = free(b)
	}
	if a == b {
		if random.IntN(2) == 0 {
			return map[int64]*user{a: nil}
		}
		return map[int64]*user{a: {email: ua.email, age: age}}
	}
	return map[int64]*user{a: {email: ub.email, age: age}, b: {email: ua.email, age: age}}
}
