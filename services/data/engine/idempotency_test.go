package engine

import (
	"context"
	"fmt"
	"sync"
	"testing"

	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/internal/value"
	"github.com/nearside-dev/nearside/services/data/changelog"
)

func TestIdempotencyKeys(t *testing.T) {
	f := newFixture(t)
	f.exec("CREATE TABLE t (id INTEGER PRIMARY KEY, a)")
	key := changelog.IdempotencyKey{Principal: "p", Key: "k"}
	insert := func(a string, hash byte) (*Commit, error) {
		return f.db.Transact(context.Background(), &Transaction{
			Operations: []Operation{SQL("INSERT INTO t (a) VALUES (?1) RETURNING id", value.Text(a))},
			Key:        key, RequestHash: [32]byte{hash},
		})
	}
	first, err := insert("x", 1)
	if err != nil {
		t.Fatal(err)
	}
	again, err := insert("x", 1)
	if err != nil || !again.Replayed || again.Version != first.Version ||
		again.Results[0].GetRows()[0].GetValues()[0].GetInteger() != 1 {
		t.Errorf("repeat: %+v, %v", again, err)
	}
	_, err = insert("y", 2)
	wantReason(t, err, datav1.ErrorReason_ERROR_REASON_IDEMPOTENCY_KEY_REUSED)
	f.removeFile() // keys survive with the log
	if again, err := insert("x", 1); err != nil || !again.Replayed {
		t.Errorf("repeat after rebuilding: %+v, %v", again, err)
	}
	f.want("SELECT count(*) FROM t", "1")
}

func TestConcurrentRepeatsOfOneKey(t *testing.T) {
	f := newFixture(t)
	f.exec("CREATE TABLE t (id INTEGER PRIMARY KEY, a)")
	var wg sync.WaitGroup
	for i := range 64 {
		wg.Go(func() {
			_, err := f.db.Transact(context.Background(), &Transaction{
				Operations: []Operation{SQL("INSERT INTO t (a) VALUES (1)")},
				Key:        changelog.IdempotencyKey{Key: fmt.Sprint(i % 4)},
			})
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	f.want("SELECT count(*) FROM t", "4")
}
