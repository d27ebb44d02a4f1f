package audit

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/timestamppb"

	authv1 "github.com/nearside-dev/nearside/gen/nearside/auth/v1"
)

func sample() *authv1.AuditEntry {
	return &authv1.AuditEntry{
		Time: timestamppb.New(time.Unix(1, 2)), Region: "eu", Node: "n1", Actor: "user:u_1", Credential: "t_1", Action: "a/B",
		Target: "x=y", Decision: Denied, Reason: "R", Policy: "p", Address: "10.0.0.1", TraceId: "ab", Count: 3,
	}
}

// TestHashHasEveryField changes each field alone, those that a later build adds too.
func TestHashHasEveryField(t *testing.T) {
	before := ChainHash(Hash{}, 1, sample(), Origin{})
	fields := sample().ProtoReflect().Descriptor().Fields()
	for i := range fields.Len() {
		e := sample()
		m, f := e.ProtoReflect(), fields.Get(i)
		switch f.Kind() {
		case protoreflect.StringKind:
			m.Set(f, protoreflect.ValueOfString(m.Get(f).String()+"x"))
		case protoreflect.Uint64Kind:
			m.Set(f, protoreflect.ValueOfUint64(4))
		case protoreflect.EnumKind:
			m.Set(f, protoreflect.ValueOfEnum(1))
		case protoreflect.MessageKind:
			e.Time = timestamppb.New(time.Unix(1, 3))
		default:
			t.Fatalf("a field of kind %v", f.Kind())
		}
		if ChainHash(Hash{}, 1, e, Origin{}) == before {
			t.Errorf("%s is not in the hash", f.Name())
		}
		if f.Name() != "node" && SpoolHash(Hash{}, 1, e) == SpoolHash(Hash{}, 1, sample()) {
			t.Errorf("%s is not in a spool's hash", f.Name())
		}
	}
	moved := sample()
	moved.Actor, moved.Credential = "user:u_1t", "_1"
	for name, h := range map[string]Hash{
		"moved text": ChainHash(Hash{}, 1, moved, Origin{}), "sequence": ChainHash(Hash{}, 2, sample(), Origin{}),
		"previous": ChainHash(Hash{1}, 1, sample(), Origin{}), "origin": ChainHash(Hash{}, 1, sample(), Origin{Sequence: 1}),
		"spool": ChainHash(Hash{}, 1, sample(), Origin{Spool: "s"}), "its hash": ChainHash(Hash{}, 1, sample(), Origin{Hash: Hash{1}}),
		"a spool's": SpoolHash(Hash{}, 1, sample()),
	} {
		if h == before {
			t.Errorf("%s: the same hash", name)
		}
	}
}

// collected runs a recorder for a while and returns what it wrote.
func collected(t *testing.T, o RecorderOptions, f func(*Recorder)) (all []*authv1.AuditEntry) {
	t.Helper()
	o.Region, o.Logger = "eu", slog.New(slog.DiscardHandler)
	if o.Write == nil {
		o.Write = func(_ context.Context, es []*authv1.AuditEntry) error {
			all = append(all, es...)
			return nil
		}
	}
	r, err := NewRecorder(o)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		r.Run(ctx)
	}()
	f(r)
	cancel()
	<-done
	return all
}

func TestRecorderCounts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		all := collected(t, RecorderOptions{}, func(r *Recorder) {
			for i := range 5 {
				r.Record(Entry{Action: "a", Decision: Denied, RequestID: fmt.Sprint("r", i), TraceID: fmt.Sprint("t", i)})
				time.Sleep(time.Millisecond)
			}
			r.Record(Entry{Action: "b", Decision: Denied})
			time.Sleep(time.Second)
			r.Record(Entry{Action: "a", Decision: Denied}) // the last is written as it ends
		})
		var got []string
		for _, e := range all {
			got = append(got, fmt.Sprintf("%s %d %s %s", e.GetAction(), e.GetCount(), e.GetRequestId(), e.GetTraceId()))
		}
		// The first is written at once, and so is what is another; what repeats waits.
		if want := "a 1 r0 t0, b 1  , a 4 r1 t1, a 1  "; strings.Join(got, ", ") != want || all[0].GetRegion() != "eu" {
			t.Errorf("%v, want %s", got, want)
		}
	})
}

// TestRecorderWritesAtOnce: whoever is killed has what was recorded before the last write began, and of an event that goes on all the
// while one entry for each interval.
func TestRecorderWritesAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		var times []time.Duration
		var entries []int
		written := func() (begun []time.Duration, sizes []int) {
			mu.Lock()
			defer mu.Unlock()
			return slices.Clone(times), slices.Clone(entries)
		}
		start := time.Now()
		collected(t, RecorderOptions{Write: func(_ context.Context, es []*authv1.AuditEntry) error {
			mu.Lock()
			times, entries = append(times, time.Since(start)), append(entries, len(es))
			mu.Unlock()
			time.Sleep(10 * time.Millisecond) // the disk
			return nil
		}}, func(r *Recorder) {
			r.Record(Entry{Action: "a", Decision: Denied})
			time.Sleep(5 * time.Millisecond)
			for i := range 100 { // while the first is on its way
				r.Record(Entry{Action: fmt.Sprint(i), Decision: Denied})
			}
			time.Sleep(200 * time.Millisecond)
			begun, sizes := written()
			if len(begun) != 2 || begun[0] != 0 || begun[1] != 10*time.Millisecond || sizes[1] != 100 {
				t.Errorf("writes began at %v, with %v entries", begun, sizes)
			}
			for range 3000 { // three seconds of the same
				r.Record(Entry{Action: "b", Decision: Denied})
				time.Sleep(time.Millisecond)
			}
			begun, _ = written()
			if n := len(begun); n < 13 || n > 16 {
				t.Errorf("%d writes, at %v", n, begun)
			}
			time.Sleep(time.Second)
			begun, _ = written()
			n, at := len(begun), time.Since(start)
			r.Record(Entry{Action: "b", Decision: Denied}) // after a while it is no repeat
			time.Sleep(20 * time.Millisecond)
			begun, _ = written()
			if len(begun) != n+1 || begun[n] != at {
				t.Errorf("after a second the next write is at %v, want %v", begun[n:], at)
			}
		})
	})
}

// TestRecorderDrops: what is above the bounds is not there, but that it was is.
func TestRecorderDrops(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		all := collected(t, RecorderOptions{Rate: 1, Burst: 3}, func(r *Recorder) {
			for i := range 10 {
				r.Record(Entry{Action: strings.Repeat("x", i+1), Decision: Refused})
			}
			time.Sleep(2 * time.Second)
			r.Record(Entry{Action: "later", Decision: Refused})
		})
		total := uint64(0)
		for _, e := range all {
			total += e.GetCount()
		}
		if len(all) != 5 || all[3].GetDecision() != Dropped && all[0].GetDecision() != Dropped || total != 11 || all[4].GetAction() != "later" {
			t.Errorf("%v", all)
		}
	})
}

// TestNobodyHidesSomebody: what callers without a credential cause takes no room from what is known of others.
func TestNobodyHidesSomebody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		all := collected(t, RecorderOptions{}, func(r *Recorder) {
			for i := range 5000 {
				r.Record(Entry{Action: "credential", Decision: Refused, TraceID: fmt.Sprint(i)})            // one entry
				r.Record(Entry{Action: "credential", Decision: Refused, Address: fmt.Sprint(i)})            // too many
				r.Record(Entry{Action: "x/Y", Decision: Denied, Actor: "user:u_1", TraceID: fmt.Sprint(i)}) // and another
			}
		})
		denied, traced := 0, 0
		for _, e := range all {
			if e.GetDecision() == Denied {
				denied += int(e.GetCount())
			}
			if e.GetTraceId() != "" && e.GetActor() == "" {
				traced += int(e.GetCount())
			}
		}
		if denied != 5000 || traced != 5000 || len(all) > DefaultBurst+10 {
			t.Errorf("%d denied, %d with a trace, %d entries", denied, traced, len(all))
		}
	})
}

// TestRecorderKeepsWhatIsNotWritten: entries wait for a disk that fails, up to a bound.
func TestRecorderKeepsWhatIsNotWritten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var written atomic.Bool
		var all []*authv1.AuditEntry
		collected(t, RecorderOptions{MaxPending: 8, Write: func(_ context.Context, es []*authv1.AuditEntry) error {
			if !written.Load() {
				return context.DeadlineExceeded
			}
			all = append(all, es...)
			return nil
		}}, func(r *Recorder) {
			for i := range 20 {
				r.Record(Entry{Action: strings.Repeat("x", i+1), Decision: Refused})
				time.Sleep(time.Second)
			}
			written.Store(true)
			time.Sleep(time.Second)
		})
		total := uint64(0)
		for _, e := range all {
			total += e.GetCount()
		}
		if total != 20 || len(all) > 12 {
			t.Errorf("%d entries for %d events: %v", len(all), total, all)
		}
	})
}

func TestEntryIsBounded(t *testing.T) {
	e := (&Entry{Time: time.Unix(0, 0), Action: strings.Repeat("ä", 500), Target: "a\nb\x00\xff", Decision: Allowed}).Proto("", 1)
	if len(e.GetAction()) > maxText || e.GetTarget() != "a b ?" {
		t.Errorf("%q %q", e.GetAction(), e.GetTarget())
	}
	if _, err := proto.Marshal(e); err != nil {
		t.Error(err)
	}
}

func TestTraceID(t *testing.T) {
	const id = "0af7651916cd43dd8448eb211c80319c"
	for text, want := range map[string]string{
		"00-" + id + "-b7ad6b7169203331-01": id, "": "", "00-" + id: "", "00-" + strings.ToUpper(id) + "-b7ad6b7169203331-01": "",
		"00_" + id + "-b7ad6b7169203331-01": "",
	} {
		if got := TraceIDOf(text); got != want {
			t.Errorf("%q: %q", text, got)
		}
	}
}
