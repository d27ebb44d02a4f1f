package engine

import (
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"time"

	"google.golang.org/protobuf/proto"

	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/internal/catalog"
	"github.com/nearside-dev/nearside/internal/rpcerr"
	"github.com/nearside-dev/nearside/internal/value"
	"github.com/nearside-dev/nearside/services/data/changelog"
)

// commit makes the group durable and answers it: log append with one fsync, SQLite COMMIT, publish, answer. A commit with a
// table whose rows the log does not get makes the SQLite file durable first.
func (w *writer) commit(members []member, started time.Time) {
	if len(members) == 1 && members[0].change != nil && members[0].change.replaced {
		w.commitEarly(members, started)
		return
	}
	changes, err := w.append(members)
	if err != nil {
		// What reached the log is unknown: only its next opening can tell.
		w.stop(fmt.Errorf("log append: %w", err))
		w.answer(members, notServed(err))
		return
	}
	w.db.failpoint("after-append")
	err = w.run("COMMIT")
	w.db.failpoint("after-commit")
	if err != nil {
		// The log has it, so it is done: bring SQLite up to the log and go on.
		w.db.logger.Error("commit failed after the log append; replaying", slog.Any("error", err))
		err = w.recover()
	} else if changes > 0 {
		w.accept(members)
	}
	if err != nil {
		w.stop(fmt.Errorf("recovery after a failed commit: %w", err))
		w.answer(members, notServed(err))
		return
	}
	if changes > 0 {
		w.publish(changes, started)
	}
	w.db.failpoint("before-answer")
	w.answer(members, nil)
}

func (w *writer) publish(changes int, started time.Time) {
	w.log.Publish(w.id, w.head)
	w.db.metrics.group(changes, w.pending.bytes, time.Since(started))
	w.db.committed()
}

// append writes the group's records to the log and its version to SQLite.
func (w *writer) append(members []member) (changes int, err error) {
	b := w.log.NewBatch(w.id)
	defer func() { err = errors.Join(err, b.Close()) }()
	changes, keyed, err := w.fill(b, members)
	if err != nil {
		return 0, err
	}
	if changes > 0 {
		if err := w.saveHead(w.pending.head, lastCatalog(members)); err != nil {
			return 0, err
		}
	}
	w.db.failpoint("before-append")
	if changes+keyed == 0 {
		return 0, nil
	}
	return changes, b.Commit()
}

// fill puts what the group did into a log batch.
func (w *writer) fill(b *changelog.Batch, members []member) (changes, keyed int, err error) {
	for _, m := range members {
		if m.change != nil {
			changes++
			if err := m.change.appendTo(b); err != nil {
				return 0, 0, err
			}
		}
		if key := m.r.tx.Key; key.Key != "" && m.err == nil && !m.commit.Replayed {
			keyed++
			if err := b.Outcome(key, w.outcome(m), w.pending.head.Version); err != nil {
				return 0, 0, err
			}
			w.brief.stored(key)
		}
	}
	for id, sum := range w.pending.sums { // as the last of the group left them
		if err := b.Sum(id, sum); err != nil {
			return 0, 0, err
		}
	}
	return changes, keyed, nil
}

func (w *writer) outcome(m member) changelog.Outcome {
	o := changelog.Outcome{Version: m.commit.Version, RequestHash: m.r.tx.RequestHash, Time: w.now()}
	answer, err := proto.Marshal(&datav1.TransactResponse{Results: m.commit.Results, Version: m.commit.Version})
	if err == nil && len(answer) <= changelog.MaxStoredAnswer {
		o.HasAnswer, o.Answer = true, answer
	}
	return o
}

func lastCatalog(members []member) *catalog.Catalog {
	for _, m := range members {
		if m.change != nil && m.change.catalog != nil {
			return m.change.catalog // alone in its group
		}
	}
	return nil
}

// accept takes over what the group did.
func (w *writer) accept(members []member) {
	w.head = w.pending.head
	maps.Copy(w.sums, w.pending.sums)
	for id, s := range w.pending.sequences {
		if s == nil {
			delete(w.sequences, id)
		} else {
			w.sequences[id] = *s
		}
	}
	for _, m := range members {
		if m.change == nil || m.change.catalog == nil {
			continue
		}
		for _, id := range m.change.dropped {
			delete(w.sums, id)
			delete(w.sequences, id)
		}
		if err := w.useCatalog(m.change.catalog, m.change.roots); err != nil {
			w.stop(err) // unreachable: the same catalog passed when its rows were read
		}
	}
}

func (w *writer) answer(members []member, err error) {
	for _, m := range members {
		switch {
		case m.err != nil && err == nil:
			m.r.done <- outcome{err: m.err}
		case err != nil:
			m.r.done <- outcome{err: err}
		default:
			m.r.done <- outcome{commit: m.commit}
		}
	}
}

// fail answers requests when SQLite cannot even begin.
func (w *writer) fail(requests []*request, err error) {
	w.stop(err)
	for _, r := range requests {
		r.done <- outcome{err: notServed(err)}
	}
}

// stop ends the database's service: it cannot vouch for what it has.
func (w *writer) stop(err error) {
	w.db.logger.Error("database stopped", slog.Any("error", err))
	first := w.db.problem.CompareAndSwap(nil, &err)
	w.log.Unpublish(w.id)
	if first && w.db.onFatal != nil {
		w.db.onFatal(fmt.Errorf("database %d: %w", w.id, err))
	}
}

func notServed(err error) error {
	return rpcerr.New(datav1.ErrorReason_ERROR_REASON_STORE_FAILED, "the database is not served: its store failed").
		WithRetryAfter(time.Second).Because(err)
}

// saveHead writes the group's last version into SQLite, within the group's transaction.
func (w *writer) saveHead(h changelog.Head, c *catalog.Catalog) error {
	err := w.run("UPDATE main."+metaTable+" SET version = ?1, epoch = ?2, checksum = ?3",
		value.Integer(int64(h.Version)), value.Integer(int64(h.Epoch)), value.Blob(h.Checksum[:]))
	if err != nil || c == nil {
		return err
	}
	encoded, err := proto.Marshal(c.ToProto())
	if err != nil {
		return err
	}
	return w.run("UPDATE main."+catalogTable+" SET version = ?1, catalog = ?2",
		value.Integer(int64(c.Version)), value.Blob(encoded))
}
