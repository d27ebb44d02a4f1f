package auditlog

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	authv1 "github.com/nearside-dev/nearside/gen/nearside/auth/v1"
	replicationv1 "github.com/nearside-dev/nearside/gen/nearside/replication/v1"
	"github.com/nearside-dev/nearside/internal/audit"
	"github.com/nearside-dev/nearside/internal/sqlite"
	"github.com/nearside-dev/nearside/services/data/changelog"
	"github.com/nearside-dev/nearside/services/data/engine"
	"github.com/nearside-dev/nearside/services/data/registry"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fixture is a chain with databases of its own.
type fixture struct {
	*Store

	t   *testing.T
	now time.Time
	dir string
	log *changelog.Log
	all *registry.Registry
}

func newFixture(t *testing.T, keepEntries int) *fixture {
	t.Helper()
	f := &fixture{t: t, now: time.Now(), dir: t.TempDir()}
	quiet := slog.New(slog.DiscardHandler)
	var err error
	if f.log, err = changelog.Open(filepath.Join(f.dir, "log"), changelog.Options{Logger: quiet}); err != nil {
		t.Fatal(err)
	}
	f.all, err = registry.Open(t.Context(), registry.Config{
		Dir: filepath.Join(f.dir, "db"), Log: f.log, Logger: quiet, Metrics: engine.NewMetrics(prometheus.NewRegistry()),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(f.all.Close(), f.log.Close()); err != nil {
			t.Error(err)
		}
	})
	f.Store, err = Open(t.Context(), Config{
		DB: f.all.Audit(), Log: f.log, Region: "home", Logger: quiet, KeepEntries: keepEntries, Clock: func() time.Time { return f.now },
	})
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func (f *fixture) record(n int) {
	f.t.Helper()
	for i := range n {
		e := audit.Entry{Time: f.now, Region: "home", Actor: "user:u_1", Action: fmt.Sprintf("Test/%d", i), Decision: audit.Allowed}
		if err := f.Append(f.t.Context(), e.Proto(Node, 1)); err != nil {
			f.t.Fatal(err)
		}
	}
}

func (f *fixture) verify(known *authv1.VerifyEntriesRequest) *authv1.VerifyEntriesResponse {
	f.t.Helper()
	if known == nil {
		known = &authv1.VerifyEntriesRequest{}
	}
	res, err := NewService(f.Store, f.log, f.all).VerifyEntries(f.t.Context(), connect.NewRequest(known))
	if err != nil {
		f.t.Fatal(err)
	}
	return res.Msg
}

// tamper changes the file behind the primary's back.
func (f *fixture) tamper(sql ...string) {
	f.t.Helper()
	c, err := sqlite.Open(filepath.Join(f.dir, "db", "3.sqlite"), sqlite.ReadWrite)
	if err != nil {
		f.t.Fatal(err)
	}
	for _, s := range sql {
		if err := c.Exec(s); err != nil {
			f.t.Fatal(err)
		}
	}
	if err := c.Close(); err != nil {
		f.t.Fatal(err)
	}
}

func text2(problems []*authv1.VerifyEntriesResponse_Problem) string {
	var b strings.Builder
	for _, p := range problems {
		fmt.Fprintf(&b, "%d: %s\n", p.GetSequence(), p.GetMessage())
	}
	return b.String()
}

func TestTampering(t *testing.T) {
	const (
		ends = "0: table ends is not what the primary's log says: it was changed behind the primary's back\n"
		sums = "0: table entries is not what the primary's log says: it was changed behind the primary's back\n"
	)
	for _, test := range []struct {
		name string
		sql  []string
		want string
	}{
		{name: "nothing"},
		{
			name: "an actor is changed", sql: []string{"UPDATE entries SET actor = 'user:u_2' WHERE sequence = 3"},
			want: "3: entry 3 is not what was recorded there\n" + sums,
		},
		{
			name: "an entry is removed", sql: []string{"DELETE FROM entries WHERE sequence = 4"},
			want: "4: entry 4 is missing\n" + sums,
		},
		{
			name: "two are", sql: []string{"DELETE FROM entries WHERE sequence IN (4, 5)"},
			want: "4: entries 4 to 5 are missing\n" + sums,
		},
		{
			name: "the first are", sql: []string{"DELETE FROM entries WHERE sequence < 3"},
			want: "1: entries 1 to 2 are missing\n" + sums,
		},
		{
			name: "the first are, and so it is said", sql: []string{
				"UPDATE ends SET sequence = 2, hash = (SELECT hash FROM entries WHERE sequence = 2) WHERE which = 'first'",
				"DELETE FROM entries WHERE sequence < 3",
			},
			want: "2: entries up to 2 are missing, and no entry says that they were removed\n" + ends + sums,
		},
		{
			name: "the last are", sql: []string{"DELETE FROM entries WHERE sequence > 8"},
			want: "9: entries 9 to 10, the last ones, are missing\n" + sums,
		},
		{
			name: "the last are, and so it is said", sql: []string{
				"DELETE FROM entries WHERE sequence > 8",
				"UPDATE ends SET sequence = 8, hash = (SELECT hash FROM entries WHERE sequence = 8) WHERE which = 'last'",
			},
			want: ends + sums,
		},
		{
			name: "two change places", sql: []string{
				"UPDATE entries SET sequence = 100 WHERE sequence = 5", "UPDATE entries SET sequence = 5 WHERE sequence = 6",
				"UPDATE entries SET sequence = 6 WHERE sequence = 100",
			},
			want: "5: entry 5 is not what was recorded there\n6: entry 6 is not what was recorded there\n" +
				"7: entry 7 is not what was recorded there\n" + sums,
		},
		{
			name: "a hash is cut", sql: []string{"UPDATE entries SET hash = x'00' WHERE sequence = 10"},
			want: "10: entry 10 is not what was recorded there\n10: the last entry is not the one that was recorded last\n" + sums,
		},
		{
			name: "all is gone", sql: []string{"DELETE FROM entries"},
			want: "1: entries 1 to 10, the last ones, are missing\n" + sums,
		},
		{
			name: "there is no end", sql: []string{"DELETE FROM ends"},
			want: "0: the audit does not know where its chain begins and ends\n" + ends,
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			f := newFixture(t, 0)
			f.record(10)
			f.tamper(test.sql...)
			if got := text2(f.verify(nil).GetProblems()); got != test.want {
				t.Errorf("found\n%swant\n%s", got, test.want)
			}
		})
	}
}

// TestKnownHash: who kept the hash of an entry finds out that all was made anew, by somebody who may do anything here.
func TestKnownHash(t *testing.T) {
	f := newFixture(t, 0)
	f.record(5)
	kept := f.verify(nil)
	f.record(5)
	known := &authv1.VerifyEntriesRequest{KnownSequence: kept.GetLastSequence(), KnownHash: kept.GetLastHash()}
	if p := f.verify(known).GetProblems(); len(p) != 0 {
		t.Errorf("%v", p)
	}
	other := newFixture(t, 0)
	other.now = f.now.Add(time.Second)
	other.record(10)
	if got := text2(other.verify(known).GetProblems()); got != "5: entry 5 was another one once\n" {
		t.Errorf("%q", got)
	}
	other = newFixture(t, 0)
	other.record(3)
	if got := text2(other.verify(known).GetProblems()); got != "5: entry 5 was there once, and is missing\n" {
		t.Errorf("%q", got)
	}
}

func TestConcurrentAppends(t *testing.T) {
	f := newFixture(t, 0)
	var group sync.WaitGroup
	for range 8 {
		group.Go(func() { f.record(20) })
	}
	group.Wait()
	if res := f.verify(nil); len(res.GetProblems()) > 0 || res.GetEntries() != 160 || res.GetLastSequence() != 160 {
		t.Errorf("%v", res)
	}
}

func TestTrim(t *testing.T) {
	f := newFixture(t, 100)
	entry := audit.Entry{Time: f.now, Region: "home", Action: "Test/x", Decision: audit.Allowed}
	many := func(n int) {
		es := make([]*authv1.AuditEntry, n)
		for i := range es {
			es[i] = entry.Proto(Node, 1)
		}
		if err := f.AppendAll(t.Context(), es); err != nil {
			t.Fatal(err)
		}
	}
	many(100 + trimSlack)
	if err := f.Trim(t.Context()); err != nil || f.verify(nil).GetFirstSequence() != 1 {
		t.Fatalf("trimmed too early: %v", err)
	}
	many(10)
	for range 3 {
		if err := f.Trim(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	res := f.verify(nil)
	if len(res.GetProblems()) > 0 || res.GetEntries() != 101 || res.GetFirstSequence() != 11+trimSlack {
		t.Errorf("%v", res)
	}
	f.now = f.now.Add(DefaultKeepAge + time.Hour)
	many(1)
	if err := f.Trim(t.Context()); err != nil {
		t.Fatal(err)
	}
	res = f.verify(nil) // the entry of the first removal is old too: the second one says the same of it
	if len(res.GetProblems()) > 0 || res.GetEntries() > 3 {
		t.Errorf("%v", res)
	}
	f.tamper("DELETE FROM entries WHERE action = 'audit/trim'")
	if p := f.verify(nil).GetProblems(); len(p) == 0 {
		t.Error("what says that entries were removed may be removed")
	}
}

func deliver(f *fixture, s *Spools, first uint64, previous audit.Hash, actions ...string) (*replicationv1.DeliverResponse, audit.Hash) {
	f.t.Helper()
	m := &replicationv1.DeliverRequest{
		Region: "away", Spool: strings.Repeat("a", 32), FirstSequence: first, PreviousHash: slices.Clone(previous[:]),
	}
	for i, a := range actions {
		e := (&audit.Entry{Time: f.now, Region: "away", Action: a, Decision: audit.Denied}).Proto("", 1)
		m.Entries = append(m.Entries, e)
		previous = audit.SpoolHash(previous, first+uint64(i), e)
	}
	res, err := s.Deliver(context.Background(), connect.NewRequest(m))
	if err != nil {
		f.t.Fatal(err)
	}
	return res.Msg, previous
}

func TestDeliver(t *testing.T) {
	f := newFixture(t, 0)
	s := NewSpools(f.Store)
	zero := audit.Hash{}
	res, b := deliver(f, s, 1, zero, "a", "b")
	if res.GetLastSequence() != 2 || res.GetBroken() {
		t.Errorf("%v", res)
	}
	f.record(2) // others come between
	for range 2 {
		if res, _ = deliver(f, s, 1, zero, "a", "b", "c"); res.GetLastSequence() != 3 || res.GetBroken() {
			t.Errorf("%v", res)
		}
	}
	if res, _ = deliver(f, s, 1, zero, "a"); res.GetLastSequence() != 3 || res.GetBroken() {
		t.Errorf("%v", res)
	}
	if got := f.verify(nil); got.GetEntries() != 5 || len(got.GetProblems()) != 0 {
		t.Errorf("%v", got)
	}
	for name, res := range map[string]*replicationv1.DeliverResponse{
		"a gap": first(deliver(f, s, 5, b, "e")), "another past": first(deliver(f, s, 4, b, "d")),
		"another past within": first(deliver(f, s, 3, b, "C", "d")),
	} {
		if !res.GetBroken() || res.GetLastSequence() != 3 {
			t.Errorf("%s: %v", name, res)
		}
	}
	if got := f.verify(nil); got.GetEntries() != 8 || len(got.GetProblems()) != 0 { // each is recorded
		t.Errorf("%v", got)
	}
	f.tamper("DELETE FROM entries WHERE spool_sequence = 2")
	if got := text2(f.verify(nil).GetProblems()); !strings.Contains(got, "entry 5 of a region does not follow its entry before") {
		t.Errorf("%s", got)
	}
}

func first(res *replicationv1.DeliverResponse, _ audit.Hash) *replicationv1.DeliverResponse {
	return res
}

func TestDeliverRefuses(t *testing.T) {
	f := newFixture(t, 0)
	s := NewSpools(f.Store)
	for name, change := range map[string]func(*authv1.AuditEntry){
		"another region": func(e *authv1.AuditEntry) { e.Region = "home" },
		"no time":        func(e *authv1.AuditEntry) { e.Time = nil },
		"no count":       func(e *authv1.AuditEntry) { e.Count = 0 },
		"a removal":      func(e *authv1.AuditEntry) { e.Action = ActionTrim },
		"a long text":    func(e *authv1.AuditEntry) { e.Target = strings.Repeat("x", 5000) },
	} {
		e := (&audit.Entry{Time: f.now, Region: "away", Action: "a", Decision: audit.Denied}).Proto("", 1)
		change(e)
		_, err := s.Deliver(t.Context(), connect.NewRequest(&replicationv1.DeliverRequest{
			Region: "away", Spool: strings.Repeat("a", 32), FirstSequence: 1, PreviousHash: make([]byte, 32),
			Entries: []*authv1.AuditEntry{e},
		}))
		if err == nil {
			t.Errorf("%s is taken", name)
		}
	}
}
