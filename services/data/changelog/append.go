package changelog

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"github.com/nearside-dev/nearside/internal/rpcheader"
)

// MaxStoredAnswer is the largest answer, in bytes, that is kept for a repeat of an idempotency key. A repeat of a larger
// one is answered "done" and the version.
const MaxStoredAnswer = 64 << 10

// RowRef names a row.
type RowRef struct {
	Table uint32
	Key   []byte
}

// IdempotencyKey is a caller's key: principals do not see each other's.
type IdempotencyKey struct {
	Principal string
	Key       string
}

// IsBrief reports whether a node made the key for its own repeats, which it makes within minutes.
func (k IdempotencyKey) IsBrief() bool { return strings.HasPrefix(k.Key, rpcheader.GeneratedKeyPrefix) }

// Outcome is what is kept of a transaction that was made under an idempotency key.
type Outcome struct {
	Version     uint64 // the commit; 0 if it changed nothing
	RequestHash [32]byte
	Time        time.Time
	HasAnswer   bool // false where the answer was over MaxStoredAnswer
	Answer      []byte
}

// Batch collects the commits of one group. All of it becomes durable at once, with one fsync, or none.
type Batch struct {
	log      *Log
	database uint32
	batch    *pebble.Batch
	first    uint64   // the version of records[0]
	records  [][]byte // what is kept in memory once it is durable
}

// NewBatch returns an empty batch for a database. Close it.
func (l *Log) NewBatch(database uint32) *Batch {
	return &Batch{log: l, database: database, batch: l.db.NewBatch()}
}

// Record adds an encoded record, which nobody changes any more. Versions are contiguous; the writer sees to that.
func (b *Batch) Record(version uint64, record []byte) error {
	if len(b.records) == 0 {
		b.first = version
	}
	b.records = append(b.records, record)
	return b.batch.Set(versionKey(spaceRecord, b.database, version), record, nil)
}

// Row notes the commit that last changed a row; deleted rows are forgotten.
func (b *Batch) Row(row RowRef, version uint64, deleted bool) error {
	key := append(tableKey(spaceRow, b.database, row.Table), row.Key...)
	if deleted {
		return b.batch.Delete(key, nil)
	}
	return b.batch.Set(key, binary.AppendUvarint(make([]byte, 0, 10), version), nil)
}

// AllRows notes the commit that made all rows of a table that Row does not name.
func (b *Batch) AllRows(table uint32, version uint64) error {
	return b.Row(RowRef{Table: table}, version, false) // no row has an empty key
}

// Sum notes a table's set-sum and row count.
func (b *Batch) Sum(table uint32, sum TableSum) error {
	value, err := sum.Sum.AppendBinary(make([]byte, 0, 24))
	if err != nil {
		return err
	}
	value = binary.BigEndian.AppendUint64(value, sum.Rows)
	return b.batch.Set(tableKey(spaceSum, b.database, table), value, nil)
}

// DropTable forgets a table's row versions and sum.
func (b *Batch) DropTable(table uint32) error {
	err := b.batch.DeleteRange(tableKey(spaceRow, b.database, table), tableKey(spaceRow, b.database, table+1), nil)
	return errors.Join(err, b.batch.Delete(tableKey(spaceSum, b.database, table), nil))
}

// Outcome notes what was done under an idempotency key. order is the version that stands for its age: its own, or for a
// transaction that changed nothing the newest at that time.
func (b *Batch) Outcome(key IdempotencyKey, o Outcome, order uint64) error {
	place := outcomeKey(b.database, key)
	if err := b.batch.Set(place, o.encode(), nil); err != nil {
		return err
	}
	space := byte(spaceKeyOrder)
	if key.IsBrief() {
		space = spaceBriefOrder
	}
	return b.batch.Set(append(versionKey(space, b.database, order), place...), nil, nil)
}

// Migration is an applied migration.
type Migration struct {
	Ordinal       uint32
	Name          string
	Checksum      [32]byte // SHA-256 of its text
	Version       uint64
	TimeUnixNanos int64
}

// Migration notes an applied migration.
func (b *Batch) Migration(m Migration) error {
	value := binary.BigEndian.AppendUint64(make([]byte, 0, 48+len(m.Name)), m.Version)
	value = binary.BigEndian.AppendUint64(value, uint64(m.TimeUnixNanos))
	value = append(append(value, m.Checksum[:]...), m.Name...)
	return b.batch.Set(tableKey(spaceMigration, b.database, m.Ordinal), value, nil)
}

// Migrations returns a database's applied migrations in order.
func (l *Log) Migrations(database uint32) ([]Migration, error) {
	iter, err := l.db.NewIter(&pebble.IterOptions{
		LowerBound: appendDatabaseKey(nil, spaceMigration, database),
		UpperBound: appendDatabaseKey(nil, spaceMigration, database+1),
	})
	if err != nil {
		return nil, fmt.Errorf("read migrations: %w", err)
	}
	var all []Migration
	for ok := iter.First(); ok && err == nil; ok = iter.Next() {
		var v []byte
		if v, err = iter.ValueAndErr(); err != nil {
			break
		}
		if len(v) < 48 {
			err = fmt.Errorf("%w: migration of %d bytes", ErrCorrupt, len(v))
			break
		}
		m := Migration{
			Ordinal: binary.BigEndian.Uint32(iter.Key()[5:]), Name: string(v[48:]),
			Version: binary.BigEndian.Uint64(v), TimeUnixNanos: int64(binary.BigEndian.Uint64(v[8:])),
		}
		copy(m.Checksum[:], v[16:])
		all = append(all, m)
	}
	if err = errors.Join(err, iter.Error(), iter.Close()); err != nil {
		return nil, fmt.Errorf("migrations of database %d: %w", database, err)
	}
	return all, nil
}

// Size returns the batch's size in bytes.
func (b *Batch) Size() int { return b.batch.Len() }

// Commit makes the batch durable. After an error the store is failed and the outcome unknown: what the log has after its
// next opening is the truth.
func (b *Batch) Commit() error {
	if err := b.log.Failed(); err != nil {
		return err
	}
	if err := b.batch.Commit(pebble.Sync); err != nil {
		return fmt.Errorf("append to log: %w", err)
	}
	if err := b.log.Failed(); err != nil {
		return err // Pebble is told that a frozen disk took the write
	}
	for i, record := range b.records {
		b.log.recent.add(b.database, b.first+uint64(i), record)
	}
	return nil
}

// Close releases the batch.
func (b *Batch) Close() error { return b.batch.Close() }

// Outcome returns what was done under a key, or ErrNotFound.
func (l *Log) Outcome(database uint32, key IdempotencyKey) (Outcome, error) {
	v, err := l.get(outcomeKey(database, key))
	if err != nil {
		return Outcome{}, err
	}
	return decodeOutcome(v)
}

// LastBriefKey returns the last key, by its bytes, that a node made for its own repeats and that has an outcome; "" if there is
// none.
func (l *Log) LastBriefKey(database uint32) (last string, err error) {
	iter, err := l.db.NewIter(&pebble.IterOptions{
		LowerBound: appendDatabaseKey(nil, spaceKey, database),
		UpperBound: appendDatabaseKey(nil, spaceKey, database+1),
	})
	if err != nil {
		return "", fmt.Errorf("read idempotency keys: %w", err)
	}
	defer func() { err = errors.Join(err, iter.Error(), iter.Close()) }()
	const space = 5 // and the database's number
	for ok := iter.First(); ok; {
		size, n := binary.Uvarint(iter.Key()[space:])
		if n <= 0 || size > uint64(len(iter.Key())-space-n) {
			return "", fmt.Errorf("%w: idempotency key of %d bytes", ErrCorrupt, len(iter.Key()))
		}
		principal := bytes.Clone(iter.Key()[:space+n+int(size)])
		begin := append(bytes.Clone(principal), rpcheader.GeneratedKeyPrefix...)
		if iter.SeekLT(successor(begin)) && bytes.HasPrefix(iter.Key(), begin) {
			last = max(last, string(iter.Key()[len(principal):]))
		}
		ok = iter.SeekGE(successor(principal))
	}
	return last, nil
}

// successor returns the least key behind all that begin with a prefix, which has a byte below 255.
func successor(prefix []byte) []byte {
	next := bytes.Clone(prefix)
	for i := len(next) - 1; ; i-- {
		if next[i]++; next[i] != 0 {
			return next[:i+1]
		}
	}
}

// ExpireOutcomes forgets callers' idempotency keys that are both older than before and made at or below a version, at most
// limit of them, and returns how many it forgot.
func (l *Log) ExpireOutcomes(database uint32, before time.Time, version uint64, limit int) (int, error) {
	return l.expire(spaceKeyOrder, database, before, version, limit)
}

// ExpireBriefOutcomes does the same with the keys that nodes made for their own repeats, by age alone.
func (l *Log) ExpireBriefOutcomes(database uint32, before time.Time, limit int) (int, error) {
	return l.expire(spaceBriefOrder, database, before, math.MaxUint64-1, limit)
}

func (l *Log) expire(space byte, database uint32, before time.Time, version uint64, limit int) (n int, err error) {
	iter, err := l.db.NewIter(&pebble.IterOptions{
		LowerBound: versionKey(space, database, 0),
		UpperBound: versionKey(space, database, version+1),
	})
	if err != nil {
		return 0, fmt.Errorf("read idempotency keys: %w", err)
	}
	batch := l.db.NewBatch()
	defer func() { err = errors.Join(err, batch.Close()) }()
	now := l.now()
	type entry struct{ order, place []byte }
	var entries []entry // the first n are old enough
	for ok := iter.First(); ok && n < limit; ok = iter.Next() {
		place := iter.Key()[13:]
		var o Outcome
		if v, getErr := l.get(place); getErr == nil {
			o, err = decodeOutcome(v)
		} else if !errors.Is(getErr, ErrNotFound) {
			err = getErr
		}
		// They stand in the order of their age. One of the future was made while the clock was wrong: it is as old as those
		// that come after it, and must not keep them.
		young := o.Time.After(before)
		if err != nil || young && !o.Time.After(now) {
			break
		}
		if len(entries) < limit {
			key := bytes.Clone(iter.Key())
			entries = append(entries, entry{order: key, place: key[13:]})
		}
		if !young {
			n = len(entries)
		}
	}
	for _, e := range entries[:n] {
		err = errors.Join(err, batch.Delete(e.order, nil), batch.Delete(e.place, nil))
	}
	if err = errors.Join(err, iter.Error(), iter.Close()); err != nil {
		return 0, fmt.Errorf("expire idempotency keys of database %d: %w", database, err)
	}
	if n == 0 {
		return 0, nil
	}
	if err := batch.Commit(pebble.NoSync); err != nil {
		return 0, fmt.Errorf("expire idempotency keys of database %d: %w", database, err)
	}
	return n, l.Failed()
}

func outcomeKey(database uint32, key IdempotencyKey) []byte {
	k := appendDatabaseKey(make([]byte, 0, 16+len(key.Principal)+len(key.Key)), spaceKey, database)
	// The length keeps ("a", "bc") and ("ab", "c") apart.
	k = binary.AppendUvarint(k, uint64(len(key.Principal)))
	k = append(k, key.Principal...)
	return append(k, key.Key...)
}

// encode writes: format 1, flags, version, time, request hash, answer.
func (o *Outcome) encode() []byte {
	flags := byte(0)
	if o.HasAnswer {
		flags = 1
	}
	b := append(make([]byte, 0, 64+len(o.Answer)), 1, flags)
	b = binary.BigEndian.AppendUint64(b, o.Version)
	b = binary.BigEndian.AppendUint64(b, uint64(o.Time.UnixNano()))
	b = append(b, o.RequestHash[:]...)
	return append(b, o.Answer...)
}

func decodeOutcome(b []byte) (Outcome, error) {
	const header = 2 + 8 + 8 + 32
	if len(b) < header || b[0] != 1 {
		return Outcome{}, fmt.Errorf("%w: outcome of %d bytes", ErrCorrupt, len(b))
	}
	o := Outcome{
		Version:   binary.BigEndian.Uint64(b[2:]),
		Time:      time.Unix(0, int64(binary.BigEndian.Uint64(b[10:]))),
		HasAnswer: b[1]&1 != 0,
		Answer:    b[header:],
	}
	copy(o.RequestHash[:], b[18:])
	return o, nil
}
