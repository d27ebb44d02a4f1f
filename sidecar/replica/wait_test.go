package replica

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/nearside-dev/nearside/sidecar/replica/replicatest"
)

func TestReaches(t *testing.T) {
	a := newApplied(0, problemNone)
	for version, epoch := range []uint32{1: 1, 2: 1, 3: 1, 4: 4, 5: 4, 6: 7, 7: 7} {
		if version > 0 {
			a.epochs = withEpoch(a.epochs, epoch, uint64(version))
			a.epoch, a.version = epoch, uint64(version)
		}
	}
	for _, test := range []struct {
		epoch   uint32
		version uint64
		want    bool
		lost    bool
	}{
		{7, 7, true, false}, {7, 8, false, false}, {8, 1, false, false}, {7, 0, true, false},
		{1, 3, true, false}, {1, 4, false, true}, {4, 5, true, false}, {4, 6, false, true},
		{2, 3, true, false}, {2, 4, false, true}, {0, 0, true, false}, {0, 1, false, true},
	} {
		got, err := a.reaches(test.epoch, test.version)
		if got != test.want || errors.Is(err, ErrBookmarkLost) != test.lost {
			t.Errorf("epoch %d version %d: %v, %v", test.epoch, test.version, got, err)
		}
	}
}

func TestEpochsAreBounded(t *testing.T) {
	var epochs []epochStart
	for i := range uint32(2 * maxEpochs) {
		epochs = withEpoch(epochs, i+1, uint64(i+1))
	}
	if len(epochs) != maxEpochs || epochs[maxEpochs-1].epoch != 2*maxEpochs {
		t.Errorf("%d epochs, the last is %d", len(epochs), epochs[len(epochs)-1].epoch)
	}
}

func TestWaitFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		u := users()
		s, p := openOn(t, vfs.NewMem(), Options{}), replicatest.NewPrimary()
		defer s.Close()
		apply(t, s, shop, p.Commit(replicatest.Schema(u)))
		d := database(t, s, shop)
		begin := time.Now()
		wait := func(epoch uint32, version uint64, bound time.Duration) <-chan error {
			result := make(chan error, 1)
			go func() {
				ctx, cancel := context.WithTimeout(context.Background(), bound)
				defer cancel()
				result <- d.WaitFor(ctx, epoch, version)
			}()
			return result
		}
		there, soon, later := wait(1, 1, time.Hour), wait(1, 2, time.Hour), wait(1, 4, time.Hour)
		never, newer := wait(1, 9, 50*time.Millisecond), wait(2, 3, time.Hour)
		synctest.Wait()
		if err := <-there; err != nil {
			t.Error(err)
		}
		apply(t, s, shop, p.Commit(), p.Commit())
		if err := <-soon; err != nil {
			t.Error(err)
		}
		if time.Since(begin) != 0 {
			t.Errorf("woken after %v: somebody polls", time.Since(begin))
		}
		if err := <-never; !errors.Is(err, context.DeadlineExceeded) || time.Since(begin) != 50*time.Millisecond {
			t.Errorf("%v after %v", err, time.Since(begin))
		}
		p.Epoch = 2
		apply(t, s, shop, p.Commit())
		if err := <-newer; err != nil {
			t.Errorf("bookmark of the epoch that came: %v", err)
		}
		if err := <-later; !errors.Is(err, ErrBookmarkLost) {
			t.Errorf("bookmark above the start of the next epoch: %v", err)
		}
		problem := wait(2, 99, time.Hour)
		synctest.Wait()
		if err := d.setProblem(problemFork); err != nil {
			t.Fatal(err)
		}
		if err := <-problem; !errors.Is(err, ErrFork) {
			t.Errorf("of a fork: %v", err)
		}
	})
}

func TestStaleness(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fs, p := vfs.NewMem(), replicatest.NewPrimary()
		s := openOn(t, fs, Options{})
		apply(t, s, shop, p.Commit())
		d := database(t, s, shop)
		stale := func(want time.Duration, when string) {
			t.Helper()
			if got := d.Staleness(time.Now()); got != want {
				t.Errorf("%s: %v, want %v", when, got, want)
			}
		}
		l := &link{}
		heartbeat := func(age time.Duration, version uint64) {
			if version > 0 {
				d.heard(1, version)
			}
			asked := time.Now().Add(-age)
			l.heard.Store(&asked)
			d.caughtUp(l)
		}
		stale(UnknownStaleness, "never heard a primary")

		heartbeat(30*time.Millisecond, 1)
		stale(30*time.Millisecond, "complete")
		time.Sleep(100 * time.Millisecond)
		stale(130*time.Millisecond, "before the next heartbeat")
		heartbeat(20*time.Millisecond, 0)
		stale(20*time.Millisecond, "nothing new")

		time.Sleep(100 * time.Millisecond)
		heartbeat(10*time.Millisecond, 2)
		stale(120*time.Millisecond, "behind: as old as the last heartbeat before")
		time.Sleep(100 * time.Millisecond)
		heartbeat(10*time.Millisecond, 0)
		stale(220*time.Millisecond, "still behind")
		if epoch, version := d.Target(); epoch != 1 || version != 2 {
			t.Errorf("target %d %d", epoch, version)
		}
		apply(t, s, shop, p.Commit())
		d.caughtUp(l)
		stale(10*time.Millisecond, "caught up")

		d.lost()
		time.Sleep(time.Second)
		stale(1010*time.Millisecond, "connection lost")
		apply(t, s, shop, p.Commit())
		heartbeat(0, 0)
		stale(1010*time.Millisecond, "connected, but this database was not named")
		if epoch, version := d.Target(); epoch != 1 || version != 3 {
			t.Errorf("target %d %d", epoch, version)
		}
		heartbeat(0, 3)
		stale(0, "named again")

		if err := s.saveHeardAt(time.Now()); err != nil {
			t.Fatal(err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		s = openOn(t, fs, Options{})
		defer s.Close()
		d = database(t, s, shop)
		stale(time.Minute, "estimated after a restart")
		time.Sleep(time.Second)
		stale(61*time.Second, "estimated later")
		s.heardAt = time.Now().Add(time.Hour).UnixNano()
		stale(time.Second, "the wall clock was set back")
	})
}
