package auditlog

import (
	"cmp"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	authv1 "github.com/nearside-dev/nearside/gen/nearside/auth/v1"
	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/internal/audit"
	"github.com/nearside-dev/nearside/internal/value"
	"github.com/nearside-dev/nearside/services/data/changelog"
	"github.com/nearside-dev/nearside/services/data/engine"
)

// Node is what the primary calls itself in its entries.
const Node = "primary"

// ActionTrim is the action of the entry that says which others were removed, because they were old or too many.
const ActionTrim = "audit/trim"

// Defaults of Config.
const (
	DefaultKeepAge     = 400 * 24 * time.Hour
	DefaultKeepEntries = 1_000_000

	trimBatch = 5000
	// trimSlack is how many entries there may be beyond those that are kept, so that each removal is of many.
	trimSlack = 1000
	maxGroup  = 500
)

var errEnds = errors.New("the audit does not know where its chain begins and ends")

// Config is a Store's. DB, Log, Region and Logger are required.
type Config struct {
	DB     *engine.DB // _audit
	Log    *changelog.Log
	Region string
	Logger *slog.Logger

	KeepAge     time.Duration // default DefaultKeepAge
	KeepEntries int           // default DefaultKeepEntries
	Clock       func() time.Time
}

// Store is the chain. It may be used concurrently.
type Store struct {
	config Config
	db     *engine.DB

	mu      sync.Mutex
	waiting []*appending // those whose entries come next
	leading bool         // somebody is appending

	// last is the end of the chain, for the one who is appending; nil where it has to be read.
	last *end
}

// appending is entries that somebody waits for.
type appending struct {
	rows []row
	more []engine.Operation // of the same transaction
	done chan error
}

// Open opens the chain.
func Open(ctx context.Context, c Config) (*Store, error) {
	c.KeepAge = cmp.Or(c.KeepAge, DefaultKeepAge)
	c.KeepEntries = cmp.Or(c.KeepEntries, DefaultKeepEntries)
	if c.Clock == nil {
		c.Clock = time.Now
	}
	if err := migrate(ctx, c.Log, c.DB); err != nil {
		return nil, err
	}
	return &Store{config: c, db: c.DB}, nil
}

// Problem returns why nothing can be recorded, or nil.
func (s *Store) Problem() error { return s.db.Problem() }

// Append records the primary's own entries and returns when they are on the disk.
func (s *Store) Append(ctx context.Context, entries ...*authv1.AuditEntry) error {
	rows := make([]row, len(entries))
	for i, e := range entries {
		rows[i].entry = e
	}
	return s.append(ctx, &appending{rows: rows})
}

// AppendAll is Append of a slice.
func (s *Store) AppendAll(ctx context.Context, entries []*authv1.AuditEntry) error {
	return s.Append(ctx, entries...)
}

// append has the entries of all who come meanwhile be one transaction, as the writer's sync to disk takes as long for one. Once
// begun it is not given up: who waits no longer has lost nothing but the answer.
func (s *Store) append(ctx context.Context, a *appending) error {
	a.done = make(chan error, 1)
	s.mu.Lock()
	s.waiting = append(s.waiting, a)
	lead := !s.leading
	s.leading = true
	s.mu.Unlock()
	if lead {
		s.lead(context.WithoutCancel(ctx))
	}
	select {
	case err := <-a.done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// lead appends until nobody waits.
func (s *Store) lead(ctx context.Context) {
	for {
		s.mu.Lock()
		group, n := s.waiting, 0
		for i, a := range group {
			if n += len(a.rows); n > maxGroup && i > 0 {
				group = group[:i]
				break
			}
		}
		s.waiting = s.waiting[len(group):]
		if len(group) == 0 {
			s.waiting, s.leading = nil, false
			s.mu.Unlock()
			return
		}
		s.mu.Unlock()
		err := s.write(ctx, group)
		for _, a := range group {
			a.done <- err
		}
	}
}

// write appends a group.
func (s *Store) write(ctx context.Context, group []*appending) (err error) {
	defer func() {
		if err != nil {
			s.last = nil // what is there is for the disk to say
			err = fmt.Errorf("record for the audit: %w", err)
		}
	}()
	if s.last == nil {
		if err := s.readLast(ctx); err != nil {
			return err
		}
	}
	last := *s.last
	insert := &datav1.BatchInsertRequest{Table: "entries", Columns: columnNames}
	ops := []engine.Operation{engine.InsertOperation(insert)}
	for _, a := range group {
		for i := range a.rows {
			r := &a.rows[i]
			r.sequence = last.sequence + 1
			r.hash = audit.ChainHash(last.hash, r.sequence, r.entry, r.origin)
			last = end{r.sequence, r.hash}
			insert.Rows = append(insert.Rows, &datav1.Row{Values: value.ToProtos(r.values())})
		}
		ops = append(ops, a.more...)
	}
	ops = append(ops, setEnd("last", last))
	if _, err := s.db.Transact(ctx, &engine.Transaction{Operations: ops}); err != nil {
		return err
	}
	s.last = &last
	return nil
}

func (s *Store) readLast(ctx context.Context) error {
	return s.db.View(ctx, func(v *engine.View) error {
		_, last, err := readEnds(v)
		if err != nil {
			return err
		}
		s.last = &last
		return nil
	})
}

// Trim removes what is too old or too much, from the beginning, and records that it did. It is called now and then.
func (s *Store) Trim(ctx context.Context) error {
	for {
		n, err := s.trimOnce(ctx)
		if n == 0 || err != nil {
			return err
		}
	}
}

func (s *Store) trimOnce(ctx context.Context) (n uint64, err error) {
	before := s.config.Clock().Add(-s.config.KeepAge).UnixNano()
	var first, to end
	err = s.db.View(ctx, func(v *engine.View) error {
		var last end
		var err error
		if first, last, err = readEnds(v); err != nil {
			return err
		}
		to = first
		excess := uint64(0)
		if kept := last.sequence - first.sequence; kept > uint64(s.config.KeepEntries)+trimSlack {
			excess = first.sequence + kept - uint64(s.config.KeepEntries)
		}
		stop := false
		_, err = v.Query(&datav1.Statement{
			Sql:        "SELECT sequence, time, hash FROM entries WHERE sequence > ?1 ORDER BY sequence LIMIT ?2",
			Parameters: value.ToProtos([]value.Value{integer(int64(first.sequence)), integer(trimBatch)}),
		}, sink(func(v []value.Value) error {
			if sequence := uint64(v[0].Integer()); !stop && (sequence <= excess || v[1].Integer() < before) {
				to.sequence = sequence
				hashOf(&to.hash, v[2])
			} else {
				stop = true
			}
			return nil
		}))
		return err
	})
	if err != nil || to.sequence == first.sequence {
		return 0, err
	}
	entry := audit.Entry{
		Time: s.config.Clock(), Region: s.config.Region, Action: ActionTrim, Decision: audit.Allowed,
		Target: trimTarget(to), Reason: fmt.Sprintf("from %d to %d", first.sequence+1, to.sequence),
	}
	// One transaction: entries are never gone without the entry that says so.
	return to.sequence - first.sequence, s.append(ctx, &appending{
		rows: []row{{entry: entry.Proto(Node, 1)}},
		more: []engine.Operation{
			engine.SQL("DELETE FROM entries WHERE sequence <= ?1", integer(int64(to.sequence))),
			engine.SQL("DELETE FROM spools WHERE last_time < ?1", integer(before)),
			setEnd("first", to),
		},
	})
}

// trimTarget is how an entry names where the chain begins now.
func trimTarget(to end) string {
	return fmt.Sprintf("sequence=%d hash=%s", to.sequence, hex.EncodeToString(to.hash[:]))
}
