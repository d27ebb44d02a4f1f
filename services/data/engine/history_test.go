package engine

import (
	"context"
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/nearside-dev/nearside/internal/historytest"
	"github.com/nearside-dev/nearside/internal/rpcerr"
)

// TestRandomHistories runs random schema and data changes and then rebuilds the file from the log alone. Failing statements
// are part of the game: they must leave nothing. internal/meshtest/history compares replicas in the same way.
func TestRandomHistories(t *testing.T) {
	from, to := historytest.Seeds(t, 40)
	for seed := from; seed < to; seed++ {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			f := newFixture(t)
			h := historytest.New(seed)
			done := 0
			for range 120 {
				_, schema, err := f.db.Schema(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				tx := &Transaction{}
				for _, sql := range h.Next(schema) {
					tx.Operations = append(tx.Operations, SQL(sql))
				}
				if _, err := f.db.Transact(context.Background(), tx); err == nil {
					done++
				} else if _, ok := rpcerr.FromError(err); !ok {
					t.Fatalf("%v\n%s", err, h) // not a refusal: the engine failed
				}
			}
			if done < 25 {
				t.Errorf("only %d transactions worked", done)
			}
			f.sumsHold()
			before, objects := f.dump(), f.objects()
			f.removeFile()
			if diff := cmp.Diff(objects, f.objects()); diff != "" {
				t.Errorf("order of the schema differs from what the log rebuilds (-file +log):\n%s\nhistory:\n%s", diff, h)
			}
			if diff := cmp.Diff(before, f.dump()); diff != "" {
				t.Errorf("file differs from what the log rebuilds (-file +log):\n%s\nhistory:\n%s", diff, h)
			}
		})
	}
}
