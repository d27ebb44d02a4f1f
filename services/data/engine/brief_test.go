package engine

import (
	"fmt"
	"log/slog"
	"math/rand/v2"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/nearside-dev/nearside/internal/rpcheader"
	"github.com/nearside-dev/nearside/services/data/changelog"
)

// Keys come late, again, from clocks that differ, with any bytes and over restarts: none that the log has is taken for new.
func TestBriefKeysAreNeverTakenForNew(t *testing.T) {
	log, err := changelog.Open("log", changelog.Options{FS: vfs.NewMem(), Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	random := rand.New(rand.NewPCG(1, 2))
	has := make(map[changelog.IdempotencyKey]bool)
	var keys []changelog.IdempotencyKey
	b, inOrder, found := briefKeys{limit: 16}, 0, 0
	for i := range 4000 {
		key := changelog.IdempotencyKey{Key: fmt.Sprintf("%s%06d", rpcheader.GeneratedKeyPrefix, i)}
		ordered := false
		switch random.IntN(10) {
		case 0:
			key.Principal = "other\xff"
		case 1:
			key.Key = fmt.Sprintf("%s%06d", rpcheader.GeneratedKeyPrefix, i+random.IntN(200)-100)
		case 2:
			key.Key = "\xff" + key.Key // a caller's own
		case 3:
			if len(keys) > 0 {
				key = keys[random.IntN(len(keys))]
			}
		case 4:
			if i%500 > 480 { // such a one has all that follow be looked up
				key.Key = rpcheader.GeneratedKeyPrefix + "\xff\xff"
			}
		default:
			ordered = true
		}
		isNew, err := b.isNew(log, 7, key)
		if err != nil {
			t.Fatal(err)
		}
		if isNew && has[key] {
			t.Fatalf("step %d: %q is new, but the log has it", i, key)
		}
		if ordered {
			inOrder++
			if isNew {
				found++
			}
		}
		if !has[key] {
			batch := log.NewBatch(7)
			if err := batch.Outcome(key, changelog.Outcome{Version: uint64(i)}, uint64(i)); err != nil {
				t.Fatal(err)
			}
			if err := batch.Commit(); err != nil {
				t.Fatal(err)
			}
			if err := batch.Close(); err != nil {
				t.Fatal(err)
			}
			b.stored(key)
			has[key] = true
			keys = append(keys, key)
		}
		if i%97 == 0 {
			b = briefKeys{limit: 16}
		}
		if i == 400 && found*100 < inOrder*50 {
			t.Errorf("%d of %d keys that came in order were known to be new", found, inOrder)
		}
	}
}

// What is remembered is counted, of all databases, and forgotten with them.
func TestBriefKeysAreCounted(t *testing.T) {
	f := newFixture(t)
	f.exec("CREATE TABLE t (id INTEGER PRIMARY KEY)")
	var kept total
	f.db.writer.brief.kept = &kept // nobody has asked the writer for anything that counts yet
	put := func(key string) {
		t.Helper()
		_, err := f.db.Transact(t.Context(), &Transaction{
			Operations: []Operation{SQL("INSERT INTO t DEFAULT VALUES")},
			Key:        changelog.IdempotencyKey{Key: rpcheader.GeneratedKeyPrefix + key},
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	for i := range 10 {
		put(fmt.Sprintf("%03d", i))
		put(fmt.Sprintf("%03d", i)) // again
	}
	if n := kept; n != 10 {
		t.Errorf("%v keys are counted, want 10", n)
	}
	if err := f.db.Close(); err != nil {
		t.Fatal(err)
	}
	if n := kept; n != 0 {
		t.Errorf("%v keys are counted when the database is closed", n)
	}

	b := briefKeys{limit: 4, kept: &kept, ready: true, now: newGeneration()}
	for i := range 100 {
		b.stored(changelog.IdempotencyKey{Key: fmt.Sprintf("%s%03d", rpcheader.GeneratedKeyPrefix, i)})
	}
	if n := kept; n != total(len(b.now.hashes)+len(b.before.hashes)) || n > 8 {
		t.Errorf("%v keys are counted of two generations of 4", n)
	}
}

type total float64

// Add implements gauge.
func (t *total) Add(n float64) { *t += total(n) }
