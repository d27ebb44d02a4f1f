// Package erase makes the bytes of deleted ranges leave the disk.
//
// Pebble answers the deletion of a range with a tombstone and keeps the bytes until a compaction happens to meet it, and in
// log files that it keeps to use again; and its list of files, the MANIFEST, names the first and last key of each file there was. An
// Eraser compacts such ranges in the background, one at a time, and sees to the log files and the list. What is still to be erased is noted in the store itself, in the batch that deletes it, so a crash forgets nothing.
package erase

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
)

// FS is a store's file system, which an Eraser tells to empty log files before they are used again. It is outermost but for
// what must see all writes.
type FS struct {
	vfs.FS

	empty atomic.Bool
	lists atomic.Int64 // how many lists of files were begun
	turns bool         // the store begins new ones while it runs
}

// NewFS returns a file system over another.
func NewFS(fs vfs.FS) *FS { return &FS{FS: fs} }

// Configure has a store begin its list of files anew whenever as many files have come and gone as there are, and not only when the
// list has 128 MB: an Eraser can have old ones go then.
func (f *FS) Configure(o *pebble.Options) {
	o.MaxManifestFileSize = 1
	f.turns = true
}

// Create implements vfs.FS.
func (f *FS) Create(name string, category vfs.DiskWriteCategory) (vfs.File, error) {
	if strings.HasPrefix(f.PathBase(name), "MANIFEST-") {
		f.lists.Add(1)
	}
	return f.FS.Create(name, category)
}

// ReuseForWrite implements vfs.FS. Its contract allows for a new file in the place of the old one.
func (f *FS) ReuseForWrite(oldname, newname string, category vfs.DiskWriteCategory) (vfs.File, error) {
	if !f.empty.Load() {
		return f.FS.ReuseForWrite(oldname, newname, category)
	}
	if err := f.Remove(oldname); err != nil {
		return nil, err
	}
	return f.Create(newname, category)
}

// Unwrap implements vfs.FS.
func (f *FS) Unwrap() vfs.FS { return f.FS }

// Eraser erases the deleted ranges of a store. Its methods are safe for concurrent use.
type Eraser struct {
	db     *pebble.DB
	fs     *FS
	prefix []byte
	logger *slog.Logger
	await  func(context.Context)

	next   atomic.Uint64
	wake   chan struct{} // of capacity 1
	cancel context.CancelFunc
	done   sync.WaitGroup

	mu    sync.Mutex
	busy  bool
	quiet chan struct{} // closed when there is nothing left to erase; nil while nobody waits
}

// Option configures an Eraser.
type Option func(*Eraser)

// After has the Eraser call await after it has read what is to be erased: what Pebble's snapshots can see no compaction removes, so
// await returns when those that are open are closed.
func After(await func(context.Context)) Option { return func(e *Eraser) { e.await = await } }

// New starts the eraser of a store whose files are in fs. It keeps its notes under keys that begin with prefix, which nothing
// else uses. Close it before the store.
func New(db *pebble.DB, fs *FS, prefix []byte, logger *slog.Logger, options ...Option) (*Eraser, error) {
	ctx, cancel := context.WithCancel(context.Background())
	e := &Eraser{
		db: db, fs: fs, prefix: prefix, logger: logger, await: func(context.Context) {}, wake: make(chan struct{}, 1), cancel: cancel,
	}
	for _, option := range options {
		option(e)
	}
	notes, err := e.notes()
	if err != nil {
		cancel()
		return nil, err
	}
	if len(notes) > 0 {
		e.next.Store(binary.BigEndian.Uint64(notes[len(notes)-1].key[len(prefix):]) + 1)
		e.Wake()
	}
	e.done.Go(func() { e.run(ctx) })
	return e, nil
}

// DeleteRange deletes the keys from lower up to upper in a batch, and notes that they are to be erased. Call Wake when the
// batch is committed.
func (e *Eraser) DeleteRange(b *pebble.Batch, lower, upper []byte) error {
	return errors.Join(b.DeleteRange(lower, upper, nil), e.Erase(b, lower, upper))
}

// Erase notes in a batch that what it deletes, and what was deleted or written over before, of the keys from lower up to upper is to
// be erased. Call Wake when the batch is committed.
func (e *Eraser) Erase(b *pebble.Batch, lower, upper []byte) error {
	key := binary.BigEndian.AppendUint64(append([]byte(nil), e.prefix...), e.next.Add(1)-1)
	value := binary.AppendUvarint(nil, uint64(len(lower)))
	return b.Set(key, append(append(value, lower...), upper...), nil)
}

// Wake has the eraser look for what is to be done.
func (e *Eraser) Wake() {
	e.mu.Lock()
	e.busy = true
	e.mu.Unlock()
	select {
	case e.wake <- struct{}{}:
	default:
	}
}

// Wait returns when all that was noted before is erased or could not be, or when ctx ends.
func (e *Eraser) Wait(ctx context.Context) error {
	e.mu.Lock()
	if !e.busy {
		e.mu.Unlock()
		return nil
	}
	if e.quiet == nil {
		e.quiet = make(chan struct{})
	}
	quiet := e.quiet
	e.mu.Unlock()
	select {
	case <-quiet:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Close stops the eraser. What is not erased will be by the next one of the same store.
func (e *Eraser) Close() {
	e.cancel()
	e.done.Wait()
}

func (e *Eraser) run(ctx context.Context) {
	for {
		select {
		case <-e.wake:
		case <-ctx.Done():
			return
		}
		if err := e.eraseAll(ctx); err != nil && ctx.Err() == nil {
			e.logger.Warn("deleted data is still on the disk", slog.Any("error", err))
		}
		e.mu.Lock()
		if len(e.wake) == 0 {
			e.busy = false
			if e.quiet != nil {
				close(e.quiet)
				e.quiet = nil
			}
		}
		e.mu.Unlock()
	}
}

// maxNotes is how many ranges are erased before the log files are.
const maxNotes = 1000

// note is a range to be erased.
type note struct{ key, lower, upper []byte }

func (e *Eraser) notes() (notes []note, err error) {
	iter, err := e.db.NewIter(&pebble.IterOptions{LowerBound: e.prefix, UpperBound: end(e.prefix)})
	if err != nil {
		return nil, fmt.Errorf("read notes of deleted ranges: %w", err)
	}
	for ok := iter.First(); ok && len(notes) < maxNotes; ok = iter.Next() {
		value, valueErr := iter.ValueAndErr()
		n, used := binary.Uvarint(value)
		if valueErr != nil || used <= 0 || n > uint64(len(value)-used) || len(iter.Key()) != len(e.prefix)+8 {
			err = errors.Join(fmt.Errorf("note of a deleted range: %x: %x", iter.Key(), value), valueErr)
			break
		}
		value = append([]byte(nil), value[used:]...)
		notes = append(notes, note{append([]byte(nil), iter.Key()...), value[:n:n], value[n:]})
	}
	return notes, errors.Join(err, iter.Error(), iter.Close())
}

// end returns the least key greater than all that begin with prefix, whose last byte is not the greatest.
func end(prefix []byte) []byte {
	upper := append([]byte(nil), prefix...)
	upper[len(upper)-1]++
	return upper
}

func (e *Eraser) eraseAll(ctx context.Context) error {
	for {
		notes, err := e.notes()
		if err != nil || len(notes) == 0 {
			return err
		}
		e.await(ctx)
		for _, n := range notes {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			// One compaction at a time: commits and reads have the other cores, and the disk. It runs to its end: Pebble panics
			// where it picks one whose context has ended meanwhile (v2.1.7, runPickedCompaction).
			if err := e.db.Compact(context.WithoutCancel(ctx), n.lower, n.upper, false); err != nil {
				return fmt.Errorf("compact a deleted range: %w", err)
			}
		}
		if err := errors.Join(e.emptyLogs(ctx), e.turnLists(ctx, notes[0])); err != nil {
			return err
		}
		b := e.db.NewBatch()
		for _, n := range notes {
			err = errors.Join(err, b.Delete(n.key, nil))
		}
		if err == nil {
			err = b.Commit(pebble.NoSync)
		}
		if err = errors.Join(err, b.Close()); err != nil {
			return fmt.Errorf("forget erased ranges: %w", err)
		}
	}
}

// maxTurns is how many files are written at most so that the list of files is begun anew. In a larger store old lists go when that
// has changed as many files as it has, twice.
const maxTurns = 4096

// turnLists has Pebble begin its list of files anew, twice: it keeps the one before. That takes a change of as many files as there
// are, so a note is written again and flushed until it is done.
func (e *Eraser) turnLists(ctx context.Context, n note) error {
	if !e.fs.turns {
		return nil
	}
	value := append(append(binary.AppendUvarint(nil, uint64(len(n.lower))), n.lower...), n.upper...)
	until := e.fs.lists.Load() + 2
	for turn := 0; e.fs.lists.Load() < until && turn < maxTurns; turn++ {
		if err := e.db.Set(n.key, value, pebble.NoSync); err != nil {
			return fmt.Errorf("write a note again: %w", err)
		}
		if err := e.flush(ctx); err != nil {
			return err
		}
	}
	return nil
}

func (e *Eraser) flush(ctx context.Context) error {
	flushed, err := e.db.AsyncFlush()
	if err != nil {
		return fmt.Errorf("flush: %w", err)
	}
	select {
	case <-flushed:
		return nil
	case <-ctx.Done(): // a store that failed may never end its flush
		return ctx.Err()
	}
}

// rotations is how often the log is turned over so that Pebble has used again each file that it keeps for that: three by
// default, and the one it writes; two more, because it takes in what it may use again a little after a flush.
const rotations = 6

// emptyLogs has Pebble use the log files again that it keeps, each of them emptied before.
func (e *Eraser) emptyLogs(ctx context.Context) error {
	e.fs.empty.Store(true)
	defer e.fs.empty.Store(false)
	for range rotations {
		if err := e.flush(ctx); err != nil {
			return err
		}
	}
	return nil
}
