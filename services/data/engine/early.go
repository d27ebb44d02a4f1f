package engine

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/nearside-dev/nearside/internal/sqlite"
	"github.com/nearside-dev/nearside/internal/value"
	"github.com/nearside-dev/nearside/services/data/changelog"
)

// earlyTable holds the log batch of a commit whose record lacks the rows of a table: the file is made durable before the log
// has the record, because the log could not give it the rows. docs/adr/005 has the crash points.
const earlyTable = internalPrefix + "early"

var errNotSynced = errors.New("sync WAL")

// commitEarly makes such a commit durable: SQLite COMMIT with the log batch in it, WAL synced, log append, publish, answer.
func (w *writer) commitEarly(members []member, started time.Time) {
	err := w.tryCommitEarly(members)
	if err == nil {
		w.publish(1, started)
		w.db.failpoint("before-answer")
		w.answer(members, nil)
		return
	}
	if errors.Is(err, errNotSynced) {
		// A second sync could report success for what the disk has lost.
		w.stop(err)
		w.answer(members, notServed(err))
		return
	}
	// Whether the file has it is for the file to say, and then the log gets it.
	w.db.logger.Error("commit of a replaced table failed", slog.Any("error", err))
	wanted := w.pending.head
	if recovered := w.recover(); recovered != nil {
		w.stop(errors.Join(err, recovered))
		w.answer(members, notServed(err))
		return
	}
	w.log.Publish(w.id, w.head)
	if w.head == wanted {
		err = nil
	} else {
		err = notServed(err)
	}
	w.answer(members, err)
}

func (w *writer) tryCommitEarly(members []member) (err error) {
	b := w.log.NewBatch(w.id)
	defer func() { err = errors.Join(err, b.Close()) }()
	if _, _, err := w.fill(b, members); err != nil {
		return err
	}
	if err := w.saveHead(w.pending.head, lastCatalog(members)); err != nil {
		return err
	}
	if err := w.run("DELETE FROM main." + earlyTable); err != nil {
		return err
	}
	if err := w.run("INSERT INTO main."+earlyTable+" (batch) VALUES (?1)", value.Blob(b.Encode())); err != nil {
		return err
	}
	w.db.failpoint("before-early-commit")
	if err := w.run("COMMIT"); err != nil {
		return err
	}
	w.db.failpoint("after-early-commit")
	if err := w.db.syncWAL(); err != nil {
		return err
	}
	w.db.failpoint("before-early-append")
	if err := b.Commit(); err != nil {
		return err
	}
	w.db.failpoint("after-early-append")
	w.accept(members)
	return w.run("DELETE FROM main." + earlyTable) // it may be large; if this is lost, the next start does it
}

// syncWAL has the disk take what was committed to the WAL, and that there is one. Checkpoints sync what they move away.
func (db *DB) syncWAL() error {
	for _, name := range []string{db.path + "-wal", filepath.Dir(db.path)} {
		f, err := os.Open(name)
		if err != nil {
			return fmt.Errorf("%w: %w", errNotSynced, err)
		}
		if err := errors.Join(f.Sync(), f.Close()); err != nil {
			return fmt.Errorf("%w: %w", errNotSynced, err)
		}
	}
	return nil
}

// finishEarly gives the log the commit that the file has and the log does not, if that is one that was to be so.
func (w *writer) finishEarly(stored changelog.Head) error {
	var batch []byte
	err := w.rows("SELECT batch FROM main."+earlyTable, nil, func(st *sqlite.Stmt) error {
		batch = st.Column(0).Clone().Bytes()
		return nil
	})
	if err != nil || batch == nil {
		return err
	}
	if stored.Version == w.head.Version+1 {
		if err := w.db.syncWAL(); err != nil {
			return err
		}
		if err := w.log.AppendEncoded(w.id, batch, stored); errors.Is(err, changelog.ErrCorrupt) {
			return fmt.Errorf("%w: %w", ErrAhead, err)
		} else if err != nil {
			return fmt.Errorf("append the file's last commit to the log: %w", err)
		}
		w.db.logger.Info("the log got the file's last commit", slog.Uint64("version", stored.Version))
		w.head = stored
	}
	return w.run("DELETE FROM main." + earlyTable)
}
