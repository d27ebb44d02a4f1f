package audit

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
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
			for range 5 {
				r.Record(Entry{Action: "a", Decision: Denied})
				time.Sleep(time.Millisecond)
			}
			r.Record(Entry{Action: "b", Decision: Denied})
			time.Sleep(time.Second)
			r.Record(Entry{Action: "a", Decision: Denied}) // the last is written as it ends
		})
		if len(all) != 3 || all[0].GetCount() != 5 || all[1].GetAction() != "b" || all[2].GetCount() != 1 || all[0].GetRegion() != "eu" {
			t.Errorf("%v", all)
		}
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
				r.Record(Entry{Action: "credential", Decision: Refused, TraceID: fmt.Sprint(i)})                   // one entry
				r.Record(Entry{Action: "credential", Decision: Refused, Address: fmt.Sprint(i)})                   // too many
				r.Record(Entry{Action: "x/Y", Decision: Denied, Actor: "user:u_1", TraceID: fmt.Sprint(i / 1000)}) // five
			}
		})
		denied, traced := 0, 0
		for _, e := range all {
			if e.GetDecision() == Denied {
				denied += int(e.GetCount())
			}
			if e.GetTraceId() == "0" && e.GetActor() == "" {
				traced = int(e.GetCount())
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
