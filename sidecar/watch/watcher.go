package watch

import (
	"context"
	"errors"
	"slices"
	"time"

	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/internal/rpcerr"
	"github.com/nearside-dev/nearside/sidecar/replica"
)

const (
	// takeRecords is how many records a watcher takes at a time.
	takeRecords = 64
	// messageBytes is where a commit's changes go on in another message.
	messageBytes = 1 << 20
)

// watcher is one call. Its own goroutine tells the caller what it finds.
type watcher struct {
	*target

	request *Request
	feed    *feed
	send    func(*datav1.WatchResponse) error
	wake    chan struct{}

	// The watcher's own, but while it is idle its feed's, under the feed's lock.
	position replica.TailPosition
	told     uint64 // the version of the last bookmark that the caller got
	toldAt   time.Time
	idle     bool
	lost     bool // the copy no longer has the table. The feed's, under its lock
	scratch  []byte

	taken []*record
	out   *datav1.WatchResponse // what is gathered of a commit
	raw   []byte                // its changes, encoded
	bytes int
}

// isDue reports whether the caller should be told that the stream is at a version.
func (w *watcher) isDue(now time.Time, version uint64) bool {
	return version > w.told && now.Sub(w.toldAt) >= w.feed.hub.options.Progress
}

// run tells the caller what changes until there is a reason to end.
func (w *watcher) run(ctx context.Context) error {
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		switch place, epoch := w.feed.take(w); place {
		case placeAway:
			return Interrupted(replica.ErrTailGap)
		case placeWaiting:
			clear(w.taken[:cap(w.taken)])
			w.taken = nil // most wait, and for long
			select {
			case <-w.wake:
			case <-w.feed.ended:
				return Interrupted(w.feed.err)
			case <-ctx.Done():
				return ctx.Err()
			}
		case placeDue:
			if err := w.tell(&datav1.WatchResponse{}, epoch, w.position.Version); err != nil {
				return err
			}
		case placeBehind:
			if err := w.readTail(ctx); err != nil {
				return err
			}
			fallthrough
		default:
			if err := w.tellRecords(); err != nil {
				return err
			}
		}
	}
}

// readTail takes records from the disk. Few may do so at a time.
func (w *watcher) readTail(ctx context.Context) error {
	h := w.feed.hub
	select {
	case h.reads <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { <-h.reads }()
	h.metrics.tailReads.Inc()
	records, _, err := w.feed.database.ReadTail(w.position, takeRecords, readBytes)
	if errors.Is(err, replica.ErrTailGap) {
		// It was too slow, or the copy was made anew: where it goes on from its bookmark it will hear which.
		return Interrupted(err)
	}
	if err != nil {
		return Interrupted(err)
	}
	for _, r := range records {
		w.taken = append(w.taken, newRecord(r))
	}
	return nil
}

// tellRecords tells what the taken records have.
func (w *watcher) tellRecords() error {
	if len(w.taken) > 1 && w.request.Together != nil {
		defer w.request.Together()()
	}
	for _, r := range w.taken {
		if err := w.tellRecord(r); err != nil {
			return err
		}
		w.position.Version = r.Version
	}
	if n := len(w.taken); n > 0 && w.isDue(time.Now(), w.position.Version) {
		return w.tell(&datav1.WatchResponse{}, w.taken[n-1].Epoch, w.position.Version)
	}
	return nil
}

func (w *watcher) tellRecord(r *record) error {
	if err := w.checkSchema(r); err != nil {
		return err
	}
	w.out, w.raw, w.bytes = nil, nil, 0
	for _, t := range r.tables {
		if t.ID != w.table.ID {
			continue
		}
		switch {
		case t.Replaced:
			return w.changed(r.Version, "the rows of table %s were all made anew", w.table.Name)
		case w.selects() && !t.OldKnown:
			return w.changed(r.Version, "what rows of table %s were before is not known", w.table.Name)
		}
		if err := w.addTable(t); err != nil {
			return err
		}
	}
	if w.out == nil {
		return nil
	}
	w.finish()
	return w.tell(w.out, r.Epoch, r.Version)
}

// checkSchema ends the stream where a commit changes what the caller takes the table for.
func (w *watcher) checkSchema(r *record) error {
	if slices.Contains(r.Dropped, w.table.ID) {
		return w.changed(r.Version, "table %s was dropped or made anew", w.table.Name)
	}
	if r.Catalog == nil {
		return nil
	}
	t := r.Catalog.TableByID(w.table.ID)
	if t == nil {
		return w.changed(r.Version, "table %s was dropped or made anew", w.table.Name)
	}
	switch now, err := Fingerprint(t); {
	case err != nil:
		return err
	case now != w.print:
		return w.changed(r.Version, "the columns, the key or the name of table %s changed", w.table.Name)
	}
	return nil
}

func (w *watcher) addTable(t *table) error {
	if !w.selects() && !w.whole() && !w.touches(t) {
		return nil // rows are not decoded for those who do not watch them
	}
	rows, err := t.decode(w.schema)
	if err != nil {
		return err
	}
	for i := range rows {
		c, ok := rows[i].match(w.target, w.scratch[:0])
		if !ok {
			continue
		}
		if c.message.GetLeft() && !w.rows.Has(rows[i].now.Values) {
			// To who may not see it any more it is gone, whatever has become of it.
			if c, err = newChange(&datav1.WatchResponse_Change{Key: c.message.GetKey()}); err != nil {
				return err
			}
		}
		if w.bytes > 0 && w.bytes+len(c.encoded) > messageBytes {
			w.finish()
			if err := w.send(w.out); err != nil {
				return err
			}
			w.out, w.raw, w.bytes = nil, nil, 0
		}
		w.add(c)
	}
	return nil
}

// touches reports whether a commit changed a row in the watched range.
func (w *watcher) touches(t *table) bool {
	for i := range t.Rows {
		if w.inRange(t.Rows[i].Key) {
			return true
		}
	}
	return false
}

func (w *watcher) add(c change) {
	if w.out == nil {
		w.out = &datav1.WatchResponse{}
	}
	w.feed.hub.metrics.changes.Inc()
	w.bytes += len(c.encoded)
	switch {
	case !w.request.Binary:
		w.out.Changes = append(w.out.Changes, c.message)
	case w.raw == nil:
		w.raw = slices.Clip(c.encoded) // shared; another change moves it
	default:
		w.raw = append(w.raw, c.encoded...)
	}
}

// finish completes a message. Changes were encoded once for all watchers, and bytes that a message does not know are written
// as they are: to who reads them they are its changes.
func (w *watcher) finish() {
	if w.raw != nil {
		w.out.ProtoReflect().SetUnknown(w.raw)
	}
}

// tell sends a message with the bookmark of a version.
func (w *watcher) tell(m *datav1.WatchResponse, epoch uint32, version uint64) error {
	m.Answer = w.request.Answer(epoch, version)
	if err := w.send(m); err != nil {
		return err
	}
	w.told, w.toldAt = version, time.Now()
	return nil
}

// Interrupted is the error of a stream that the caller is to go on with from its last bookmark.
func Interrupted(cause error) error {
	return rpcerr.New(datav1.ErrorReason_ERROR_REASON_WATCH_INTERRUPTED,
		"the watch was ended by the region, go on from the last bookmark: %w", cause)
}
