package spool

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/timestamppb"

	authv1 "github.com/nearside-dev/nearside/gen/nearside/auth/v1"
	replicationv1 "github.com/nearside-dev/nearside/gen/nearside/replication/v1"
	"github.com/nearside-dev/nearside/internal/audit"
)

// primary takes deliveries as the real one does, and loses answers if it is told to.
type primary struct {
	gone, lose atomic.Bool
	spool      string
	last       uint64
	hash       audit.Hash
	got        []string
	broken     int
}

func (p *primary) Deliver(
	_ context.Context, req *connect.Request[replicationv1.DeliverRequest],
) (*connect.Response[replicationv1.DeliverResponse], error) {
	m := req.Msg
	if p.gone.Load() {
		return nil, connect.NewError(connect.CodeUnavailable, nil)
	}
	if m.GetSpool() != p.spool {
		p.spool, p.last, p.hash = m.GetSpool(), 0, audit.Hash{}
	}
	hash, n := audit.Hash(m.GetPreviousHash()), m.GetFirstSequence()-1
	if n > p.last || n == p.last && hash != p.hash {
		p.broken++
		return connect.NewResponse(&replicationv1.DeliverResponse{LastSequence: p.last, Broken: true}), nil
	}
	for _, e := range m.GetEntries() {
		n++
		hash = audit.SpoolHash(hash, n, e)
		if n > p.last {
			p.got, p.last, p.hash = append(p.got, e.GetAction()), n, hash
		}
	}
	if p.lose.Load() {
		return nil, connect.NewError(connect.CodeUnavailable, errors.New("the answer is lost"))
	}
	return connect.NewResponse(&replicationv1.DeliverResponse{LastSequence: p.last}), nil
}

func goneAway() *primary {
	p := &primary{}
	p.gone.Store(true)
	return p
}

func entries(actions ...string) (all []*authv1.AuditEntry) {
	for _, a := range actions {
		all = append(all, &authv1.AuditEntry{Time: timestamppb.New(time.Unix(1, 0)), Region: "eu", Action: a, Count: 1})
	}
	return all
}

func open(t *testing.T, dir string, p *primary, most int64) *Spool {
	t.Helper()
	s, err := Open(Options{Dir: dir, Region: "eu", Client: p, Logger: slog.New(slog.DiscardHandler), MaxBytes: most})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func (p *primary) want(t *testing.T, want string) {
	t.Helper()
	if got := strings.Join(p.got, ""); got != want {
		t.Errorf("the primary has %q, want %q", got, want)
	}
}

// TestDeliveredOnce: whatever is lost on the way, and however often the node starts anew, each entry is there once and in order.
func TestDeliveredOnce(t *testing.T) {
	dir, p := t.TempDir(), goneAway()
	s := open(t, dir, p, 0)
	if err := s.Append(entries("a", "b")); err != nil {
		t.Fatal(err)
	}
	if err := s.deliver(t.Context()); err == nil {
		t.Error("delivered to nobody")
	}
	s.Close()
	s = open(t, dir, p, 0)
	if err := s.Append(entries("c")); err != nil {
		t.Fatal(err)
	}
	p.gone.Store(false)
	p.lose.Store(true)
	if err := s.deliver(t.Context()); err == nil {
		t.Error("no answer, no error")
	}
	p.lose.Store(false)
	if err := s.Append(entries("d")); err != nil {
		t.Fatal(err)
	}
	s.Close()
	s = open(t, dir, p, 0)
	if err := s.deliver(t.Context()); err != nil {
		t.Fatal(err)
	}
	p.want(t, "abcd")
	s.Close()
	s = open(t, dir, p, 0) // it does not know that all is delivered
	if err := errors.Join(s.Append(entries("e")), s.deliver(t.Context())); err != nil {
		t.Fatal(err)
	}
	p.want(t, "abcde")
	if p.broken != 0 {
		t.Error("the chain was broken")
	}
}

func TestTornEnd(t *testing.T) {
	dir, p := t.TempDir(), &primary{}
	s := open(t, dir, p, 0)
	if err := s.Append(entries("a", "b")); err != nil {
		t.Fatal(err)
	}
	s.Close()
	path := filepath.Join(dir, fileName)
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for cut := 1; cut < 20; cut++ {
		if err := os.WriteFile(path, whole[:len(whole)-cut], 0o600); err != nil {
			t.Fatal(err)
		}
		p := &primary{}
		s := open(t, dir, p, 0)
		if err := errors.Join(s.Append(entries("c")), s.deliver(t.Context())); err != nil {
			t.Fatal(err)
		}
		p.want(t, "ac")
		s.Close()
	}
	// Without its beginning it is another spool.
	if err := os.WriteFile(path, whole[3:], 0o600); err != nil {
		t.Fatal(err)
	}
	s = open(t, dir, p, 0)
	if err := errors.Join(s.Append(entries("d")), s.deliver(t.Context())); err != nil {
		t.Fatal(err)
	}
	p.want(t, "d")
}

// TestBroken: a primary that was put back to an earlier state gets another spool, with all that it was not told.
func TestBroken(t *testing.T) {
	p := &primary{}
	s := open(t, t.TempDir(), p, 0)
	if err := errors.Join(s.Append(entries("a", "b")), s.deliver(t.Context()), s.Append(entries("c"))); err != nil {
		t.Fatal(err)
	}
	before := p.spool
	p.last, p.hash = 1, audit.Hash{7}
	if err := s.deliver(t.Context()); err != nil {
		t.Fatal(err)
	}
	p.want(t, "abc")
	if p.broken != 1 || p.spool == before {
		t.Errorf("broken %d times", p.broken)
	}
}

func TestFull(t *testing.T) {
	p := goneAway()
	s := open(t, t.TempDir(), p, 4<<10)
	n := 0
	for ; n < 1000; n++ {
		if err := s.Append(entries("x")); errors.Is(err, ErrFull) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
	}
	if n < 50 || n == 1000 {
		t.Fatalf("full after %d", n)
	}
	p.gone.Store(false)
	if err := s.deliver(t.Context()); err != nil {
		t.Fatal(err)
	}
	if len(p.got) != n {
		t.Errorf("%d of %d", len(p.got), n)
	}
	if err := s.Append(entries("y")); err != nil { // what is delivered takes no room
		t.Error(err)
	}
}

func TestCompact(t *testing.T) {
	dir, p := t.TempDir(), &primary{}
	s := open(t, dir, p, 0)
	for i := range 40 {
		var batch []*authv1.AuditEntry
		for j := range 200 {
			batch = append(batch, entries(fmt.Sprintf("%d-%d %s", i, j, strings.Repeat("x", 30)))...)
		}
		if err := errors.Join(s.Append(batch), s.deliver(t.Context())); err != nil {
			t.Fatal(err)
		}
	}
	info, err := os.Stat(filepath.Join(dir, fileName))
	if err != nil || info.Size() > 2*compactBytes {
		t.Errorf("%v, %v", info.Size(), err)
	}
	if len(p.got) != 8000 || p.broken != 0 {
		t.Errorf("%d delivered, broken %d times", len(p.got), p.broken)
	}
}

func TestRunDelivers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := goneAway()
		s := open(t, t.TempDir(), p, 0)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() {
			defer close(done)
			s.Run(ctx)
		}()
		if err := s.Append(entries("a")); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Hour)
		p.gone.Store(false)
		time.Sleep(longestPause)
		synctest.Wait()
		p.want(t, "a")
		cancel()
		<-done
	})
}

func FuzzOpen(f *testing.F) {
	dir := f.TempDir()
	s, err := Open(Options{Dir: dir, Region: "eu", Client: &primary{}, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		f.Fatal(err)
	}
	if err := errors.Join(s.Append(entries("a", "b")), s.Close()); err != nil {
		f.Fatal(err)
	}
	whole, err := os.ReadFile(filepath.Join(dir, fileName))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(whole)
	f.Add(whole[:20])
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, content []byte) {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, fileName), content, 0o600); err != nil {
			t.Fatal(err)
		}
		p := &primary{}
		s := open(t, dir, p, 0)
		if err := errors.Join(s.Append(entries("z")), s.deliver(t.Context())); err != nil {
			t.Fatal(err)
		}
		if len(p.got) == 0 || p.got[len(p.got)-1] != "z" {
			t.Errorf("%q", p.got)
		}
	})
}
