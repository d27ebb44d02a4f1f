package faults_test

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"

	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/internal/meshtest"
	"github.com/nearside-dev/nearside/internal/meshtest/faultproxy"
	"github.com/nearside-dev/nearside/internal/rpcerr"
)

// TestReplicationCutAnywhere cuts the replication stream after many numbers of bytes, in both directions, while all kinds of
// commits go over it. However it is cut, the region equals the primary in the end.
func TestReplicationCutAnywhere(t *testing.T) {
	m, links := startLinked(t, west)
	link := links[west]
	m.Exec("", db, "CREATE TABLE other (a TEXT, b INT, c BLOB, PRIMARY KEY (a, b)) WITHOUT ROWID")
	cuts := 60
	if testing.Short() {
		cuts = 16
	}
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	written := 0
	for n := range cuts {
		side := faultproxy.Down
		offset := random.Int64N(3000)
		switch {
		case n%3 == 0: // hello, asks, pings
			side, offset = faultproxy.Up, random.Int64N(600)
		case n%7 == 0: // in the middle of a large one
			offset = random.Int64N(200_000)
		}
		cut := link.CutAfter(faultproxy.HTTP2, side, offset)
		commit := func() {
			written++
			m.Exec("", db, fmt.Sprintf("INSERT INTO w (v) VALUES ('%d')", written))
			m.Exec("", db, fmt.Sprintf("REPLACE INTO other VALUES ('%d', 1, zeroblob(%d))", random.IntN(20), random.IntN(2000)))
			m.Exec("", db, fmt.Sprintf("UPDATE w SET v = v || 'x' WHERE id = %d", 1+random.IntN(written)))
		}
		commit()
		switch n % 7 {
		case 0:
			m.Exec("", db, fmt.Sprintf(
				"WITH n(i) AS (VALUES (1) UNION ALL SELECT i+1 FROM n WHERE i < 40) "+
					"REPLACE INTO other SELECT 'large', i, randomblob(5000) FROM n WHERE i > %d", random.IntN(20)))
		case 3:
			m.Exec("", db, fmt.Sprintf("CREATE TABLE t%d AS SELECT * FROM w", n))
		case 5:
			m.Exec("", db, fmt.Sprintf("ALTER TABLE w ADD COLUMN c%d TEXT DEFAULT 'fill'", n))
		}
		for begun := time.Now(); ; { // pings alone bring on a late one too
			select {
			case <-cut:
			case <-time.After(5 * time.Millisecond):
				if time.Since(begun) > 20*time.Second {
					t.Fatalf("the stream carries nothing %v", side)
				}
				commit()
				continue
			}
			break
		}
		if n%10 == 9 {
			m.CompareAll(db)
		}
	}
	m.CompareAll(db)
	if got := len(rows(t, m)); got == 0 {
		t.Error("nothing written")
	}
}

// TestLinkCut cuts everything between a region and the primary. Reads go on, older and older; writes are refused and nothing
// of them is done; the region stays ready, and equals the primary once the link is back.
func TestLinkCut(t *testing.T) {
	m, links := startLinked(t, west)
	ctx := t.Context()
	m.Exec(west, db, "INSERT INTO w VALUES (1, 'before')")
	m.WaitSync(db)
	for round := range 3 {
		links[west].Cut()
		m.Exec("", db, fmt.Sprintf("INSERT INTO w (v) VALUES ('meanwhile %d')", round))
		var before uint32
		grown := 0
		m.Eventually("staleness grows", func(context.Context) error {
			res, err := get(ctx, m, west, "w", 1, nil)
			if err != nil || res.GetRow() == nil || res.GetAnswer().GetSource() == datav1.Source_SOURCE_PRIMARY {
				t.Fatalf("a read of the copy: %v, %v", res, err)
			}
			now := res.GetAnswer().GetStalenessMs()
			if now > before && before > 0 {
				grown++
			}
			before = now
			if grown < 10 {
				return fmt.Errorf("staleness %d ms", now)
			}
			return nil
		})
		if err := meshtest.Ready(ctx, m.HTTP(), m.URL(west)); err != nil {
			t.Errorf("without its primary a region is ready all the same: %v", err)
		}
		bounded, cancel := context.WithTimeout(ctx, 10*time.Second)
		err := insert(bounded, m.Client(west), "", "refused")
		if rpcerr.ReasonOf(err) != datav1.ErrorReason_ERROR_REASON_OUTCOME_UNKNOWN { // sent on a connection that was there still
			wantError(t, err, connect.CodeUnavailable, datav1.ErrorReason_ERROR_REASON_PRIMARY_UNAVAILABLE)
		}
		_, err = get(bounded, m, west, "w", 1, &datav1.Consistency{Level: datav1.Consistency_LEVEL_PRIMARY})
		wantError(t, err, connect.CodeUnavailable, datav1.ErrorReason_ERROR_REASON_PRIMARY_UNAVAILABLE)
		cancel()
		links[west].Heal()
		m.CompareAll(db)
		m.Eventually("writes work again", func(ctx context.Context) error {
			return insert(ctx, m.Client(west), fmt.Sprint("again ", round), fmt.Sprint("again ", round))
		})
		m.Eventually("fresh again", func(ctx context.Context) error {
			_, d, err := status(ctx, m, west)
			if err == nil && d.GetStalenessMs() >= before {
				err = errNotYet
			}
			return err
		})
	}
	m.CompareAll(db)
	checkOnce(t, m, 7)
}

// TestSlowLink has 64 writers behind a link of 20 ms and little bandwidth, and then all of it cut again and again.
func TestSlowLink(t *testing.T) {
	m, links := startLinked(t, west)
	slow := faultproxy.Link{Delay: 10 * time.Millisecond, BytesPerSecond: 256 << 10}
	links[west].Set(faultproxy.Up, slow)
	links[west].Set(faultproxy.Down, slow)
	const writers, each = 64, 10
	l := startLoad(t, "first", writers, each, m.Client(west))
	if acked := l.wait(); acked != writers*each {
		t.Errorf("%d of %d writes acknowledged", acked, writers*each)
	}
	checkOnce(t, m, writers*each)
	m.CompareAll(db)

	l = startLoad(t, "second", writers, 0, m.Client(west), m.Client(east))
	l.grow(writers)
	for range 5 {
		links[west].Cut()
		l.grow(50)
		links[west].Heal()
		links[west].Set(faultproxy.Down, slow)
		l.grow(50)
	}
	links[west].Heal()
	acked := l.end()
	checkOnce(t, m, writers*each+acked)
	m.CompareAll(db)
	t.Logf("%d writes acknowledged, %d tries repeated", acked, l.retried.Load())
}

// TestHalfOpenLink has links lose everything without a word, in one direction or both. The follower gives the connection up
// by itself, a write in progress is given up too, and a new connection is found when there is a way again.
func TestHalfOpenLink(t *testing.T) {
	regions := map[string][]faultproxy.Side{
		"up": {faultproxy.Up}, "down": {faultproxy.Down}, "both": {faultproxy.Up, faultproxy.Down},
	}
	m, links := startLinked(t, slices.Collect(maps.Keys(regions))...)
	for name, sides := range regions {
		for _, side := range sides {
			links[name].Set(side, faultproxy.Link{Lose: true})
		}
	}
	m.Exec("", db, "INSERT INTO w (v) VALUES ('meanwhile')")
	begun := time.Now()
	var writes sync.WaitGroup
	for name := range regions {
		writes.Go(func() {
			// Nobody else would end this one.
			err := insert(t.Context(), m.Client(name), name, name)
			wantError(t, err, connect.CodeAborted, datav1.ErrorReason_ERROR_REASON_OUTCOME_UNKNOWN)
			t.Logf("%s: write given up after %v", name, time.Since(begun))
		})
	}
	for name := range regions {
		m.Eventually("the loss is noticed "+name, func(ctx context.Context) error {
			r, _, err := status(ctx, m, name)
			if err == nil && r.GetConnected() {
				err = errNotYet
			}
			return err
		})
		t.Logf("%s: loss noticed after %v", name, time.Since(begun))
		if err := meshtest.Ready(t.Context(), m.HTTP(), m.URL(name)); err != nil {
			t.Error(err)
		}
	}
	writes.Wait()
	for name := range regions {
		links[name].Heal()
	}
	for name := range regions {
		waitConnected(t, m, name)
		m.Eventually("the write is repeated", func(ctx context.Context) error {
			return insert(ctx, m.Client(name), name, name)
		})
	}
	m.CompareAll(db)
	checkOnce(t, m, 4)
}
