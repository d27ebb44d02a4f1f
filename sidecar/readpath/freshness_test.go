package readpath

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/internal/bookmark"
	"github.com/nearside-dev/nearside/internal/meshdb"
	"github.com/nearside-dev/nearside/internal/rpcerr"
	"github.com/nearside-dev/nearside/sidecar/replica/replicatest"
)

func TestBookmarksRefused(t *testing.T) {
	r := newRegion(t)
	otherMesh, err := bookmark.New([]byte("another mesh's key"))
	if err != nil {
		t.Fatal(err)
	}
	good := r.mark(shopID, 1, 1)
	forged := otherMesh.Encode(bookmark.Bookmark{DatabaseID: shopID, Epoch: 1, Version: 1})
	const (
		malformed = datav1.ErrorReason_ERROR_REASON_BOOKMARK_MALFORMED
		forgedWhy = datav1.ErrorReason_ERROR_REASON_BOOKMARK_FORGED
		wrong     = datav1.ErrorReason_ERROR_REASON_BOOKMARK_WRONG_DATABASE
		field     = datav1.ErrorReason_ERROR_REASON_FIELD_INVALID
		none      = datav1.ErrorReason_ERROR_REASON_UNSPECIFIED
	)
	level := func(l datav1.Consistency_Level) *datav1.Consistency { return &datav1.Consistency{Level: l} }
	for _, tt := range []struct {
		name   string
		c      *datav1.Consistency
		header []string
		want   rpcerr.Reason
	}{
		{"truncated", &datav1.Consistency{Bookmark: good[:20]}, nil, malformed},
		{"truncated in header", nil, []string{good[:20]}, malformed},
		{"one of several in header", nil, []string{good, "x"}, malformed},
		{"forged", &datav1.Consistency{Bookmark: forged}, nil, forgedWhy},
		{"forged in header", nil, []string{forged}, forgedWhy},
		{"other database's", &datav1.Consistency{Bookmark: r.mark(7, 1, 1)}, nil, wrong},
		{"other database's in header", nil, []string{r.mark(7, 1, 99)}, none},
		{"no bookmark", level(datav1.Consistency_LEVEL_AT_LEAST), nil, field},
		{"no bookmark but another's", level(datav1.Consistency_LEVEL_AT_LEAST), []string{r.mark(7, 1, 99)}, none},
		{"no bound", level(datav1.Consistency_LEVEL_MAX_STALENESS), nil, field},
		{"good", &datav1.Consistency{Bookmark: good}, nil, none},
		{"good in header", nil, []string{r.mark(7, 9, 9) + ", " + good}, none},
		{"any needs none", level(datav1.Consistency_LEVEL_ANY), []string{r.mark(shopID, 1, 99)}, none},
	} {
		t.Run(tt.name, func(t *testing.T) {
			a, err := r.get(t.Context(), tt.c, tt.header...)
			if tt.want == none {
				wantSource(t, a, err, fromReplica)
				return
			}
			wantReason(t, err, tt.want)
		})
	}
	if r.primary.asked != 0 {
		t.Errorf("the primary was asked %d times", r.primary.asked)
	}
}

func TestAtLeast(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRegion(t)
		next := r.mark(shopID, 1, 2)

		// It comes in time.
		time.AfterFunc(30*time.Millisecond, func() {
			r.apply(shopID, r.shop.Commit(replicatest.Put(r.users, user(1, "changed@x", 1))))
		})
		begin := time.Now()
		a, err := r.get(t.Context(), nil, next)
		wantSource(t, a, err, fromReplica)
		if a.Bookmark != next || time.Since(begin) != 30*time.Millisecond {
			t.Errorf("answer is %v after %v", a, time.Since(begin))
		}

		// It does not.
		for _, tt := range []struct {
			c    *datav1.Consistency
			want time.Duration
		}{
			{&datav1.Consistency{Bookmark: r.mark(shopID, 1, 99)}, defaultMaxWait},
			{atLeast(r.mark(shopID, 1, 99), 0), 0},
			{atLeast(r.mark(shopID, 2, 1), time.Second), time.Second}, // an epoch that is not known here
		} {
			begin := time.Now()
			a, err := r.get(t.Context(), tt.c)
			wantSource(t, a, err, fromPrimary)
			if took := time.Since(begin); took != tt.want {
				t.Errorf("waited %v, want %v", took, tt.want)
			}
		}

		// The newest of several counts.
		a, err = r.get(t.Context(), nil, r.mark(shopID, 1, 99), r.mark(shopID, 1, 1))
		wantSource(t, a, err, fromPrimary)

		// A caller who goes does not wait.
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		if _, err := r.get(ctx, atLeast(r.mark(shopID, 1, 99), time.Second)); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("error is %v", err)
		}
	})
}

func TestBookmarkLost(t *testing.T) {
	r := newRegion(t)
	r.shop.Epoch = 3
	r.apply(shopID, r.shop.Commit(replicatest.Put(r.users, user(1, "changed@x", 1))))
	a, err := r.get(t.Context(), nil, r.mark(shopID, 1, 1))
	wantSource(t, a, err, fromReplica)
	_, err = r.get(t.Context(), nil, r.mark(shopID, 1, 2))
	e := wantReason(t, err, datav1.ErrorReason_ERROR_REASON_BOOKMARK_LOST)
	if e.Metadata("epoch") != "1" || e.Metadata("version") != "2" {
		t.Errorf("metadata: epoch %q version %q", e.Metadata("epoch"), e.Metadata("version"))
	}
}

// Whoever made a database and goes on with its bookmark sees what the name means since then.
func TestMeshBookmark(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRegion(t)
		next := r.mark(meshdb.DatabaseID, 1, 2)
		begin := time.Now()
		a, err := r.get(t.Context(), nil, next)
		wantSource(t, a, err, fromPrimary)
		if took := time.Since(begin); took != defaultMaxWait {
			t.Errorf("waited %v", took)
		}
		time.AfterFunc(10*time.Millisecond, func() {
			r.apply(meshdb.DatabaseID, r.mesh.Commit(
				replicatest.Put(replicatest.MeshDatabases, replicatest.MeshDatabase(shopID+1, "other"))))
		})
		a, err = r.get(t.Context(), nil, next)
		wantSource(t, a, err, fromReplica)
		if r.path.directory.find("other", false) == nil {
			t.Error("the directory was not read again")
		}
	})
}

// Nobody vouched for this copy yet, so no bound is met here.
func TestMaxStaleness(t *testing.T) {
	r := newRegion(t)
	a, err := r.get(t.Context(), &datav1.Consistency{
		Level: datav1.Consistency_LEVEL_MAX_STALENESS, MaxStaleness: durationpb.New(time.Hour),
	})
	wantSource(t, a, err, fromPrimary)
}

// Without the primary a read is answered here, or refused if it asks for more than is here.
func TestPrimaryAway(t *testing.T) {
	r := newRegion(t)
	r.primary.err = rpcerr.New(datav1.ErrorReason_ERROR_REASON_PRIMARY_UNAVAILABLE, "away")
	a, err := r.get(t.Context(), nil)
	wantSource(t, a, err, fromReplica)
	for _, c := range []*datav1.Consistency{
		{Level: datav1.Consistency_LEVEL_PRIMARY},
		{Level: datav1.Consistency_LEVEL_MAX_STALENESS, MaxStaleness: durationpb.New(0)},
		atLeast(r.mark(shopID, 1, 2), 0),
	} {
		_, err := r.get(t.Context(), c)
		wantReason(t, err, datav1.ErrorReason_ERROR_REASON_PRIMARY_UNAVAILABLE)
	}
}

func TestMilliseconds(t *testing.T) {
	for d, want := range map[time.Duration]uint32{
		0: 0, 1: 1, time.Millisecond: 1, time.Millisecond + 1: 2, 1<<63 - 1: 1<<32 - 1,
	} {
		if got := Milliseconds(d); got != want {
			t.Errorf("%v is %d ms, want %d", d, got, want)
		}
	}
}
