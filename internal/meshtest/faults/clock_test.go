package faults_test

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/internal/meshtest"
	"github.com/nearside-dev/nearside/services/data/changelog"
	"github.com/nearside-dev/nearside/services/primary"
)

// TestClockJumps sets the primary's wall clock a year forward, and then two years back. What has an order has it by version:
// regions follow, keys still answer repeats, nothing is read as fresher or staler than it is. Trimming by age takes what the
// clock says is old, and a region that was away takes a snapshot then.
func TestClockJumps(t *testing.T) {
	var ahead, trims atomic.Int64 // nanoseconds; how many
	m := meshtest.Start(t, meshtest.Options{Regions: []string{east, west}, Primary: func(c *primary.Config) {
		c.Clock = func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
		c.Keep, c.TrimInterval = changelog.Retention{Age: 24 * time.Hour, Bytes: 1 << 40}, 5*time.Millisecond
		c.Failpoint = func(place string) {
			if place == "after-trim" {
				trims.Add(1)
			}
		}
	}})
	m.Create(db)
	m.Exec("", db, createTable)
	client := m.Client(west)
	const year = 365 * 24 * time.Hour
	written := int64(0)
	for i, jump := range []time.Duration{0, year, -year, -year, 0} {
		before := trims.Load()
		ahead.Store(int64(jump))
		for n := range 5 {
			v := fmt.Sprintf("%d %d", i, n)
			for range 2 { // the repeat is answered, not done
				if err := insert(t.Context(), client, "key "+v, v); err != nil {
					t.Fatal(err)
				}
			}
			written++
		}
		for old := range i { // keys from before the jump too
			v := fmt.Sprintf("%d %d", old, 0)
			if err := insert(t.Context(), client, "key "+v, v); err != nil {
				t.Fatal(err)
			}
		}
		if jump == year { // all from before is a year old
			m.Eventually("a trim", func(context.Context) error {
				if trims.Load() == before {
					return errors.New("nothing was trimmed")
				}
				return nil
			})
		}
		m.WaitSync(db)
		m.CompareAll(db)
		checkOnce(t, m, written)
		res, err := get(t.Context(), m, west, "w", written, &datav1.Consistency{
			Level: datav1.Consistency_LEVEL_MAX_STALENESS, MaxStaleness: durationpb.New(time.Minute),
		})
		if err != nil {
			t.Fatalf("jump %v: %v", jump, err)
		}
		if res.GetAnswer().GetServedByPrimary() || res.GetAnswer().GetStalenessMs() >= 60_000 {
			t.Errorf("jump %v: %v", jump, res.GetAnswer())
		}
		// A region that was away meanwhile goes on, by log or by snapshot.
		m.StopSidecar(west)
		if err := insert(t.Context(), m.Client(east), "", fmt.Sprint("away ", i)); err != nil {
			t.Fatal(err)
		}
		written++
		m.StartSidecar(west)
		m.WaitSync(db)
		m.CompareAll(db)
	}
}
