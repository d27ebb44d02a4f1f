package erase

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	marker = "marker-that-must-leave"
	kept   = "marker-that-must-stay"
)

type fixture struct {
	t   *testing.T
	dir string
	fs  *FS
	db  *pebble.DB

	listener *pebble.EventListener
}

func newFixture(t *testing.T) *fixture {
	t.Helper()
	f := &fixture{t: t, dir: t.TempDir()}
	f.open()
	t.Cleanup(f.close)
	return f
}

func (f *fixture) open() {
	f.t.Helper()
	f.fs = NewFS(vfs.Default)
	options := &pebble.Options{
		FS: f.fs, Logger: discard{}, MemTableSize: 1 << 20, EventListener: f.listener, DisableAutomaticCompactions: f.listener != nil,
	}
	f.fs.Configure(options)
	var err error
	f.db, err = pebble.Open(f.dir, options)
	if err != nil {
		f.t.Fatal(err)
	}
}

func (f *fixture) close() {
	f.t.Helper()
	if err := f.db.Close(); err != nil {
		f.t.Error(err)
	}
}

func (f *fixture) eraser() *Eraser {
	f.t.Helper()
	e, err := New(f.db, f.fs, []byte("z"), slog.New(slog.DiscardHandler))
	if err != nil {
		f.t.Fatal(err)
	}
	return e
}

// fill writes values that a compression does not hide, and enough of them for several log files.
func (f *fixture) fill(prefix, text string) {
	f.t.Helper()
	for i := range 3000 {
		key := binary.BigEndian.AppendUint32([]byte(prefix), uint32(i))
		value := append([]byte(text), bytes.Repeat(binary.BigEndian.AppendUint64(nil, uint64(i)*0x9e3779b97f4a7c15), 100)...)
		if err := f.db.Set(key, value, pebble.NoSync); err != nil {
			f.t.Fatal(err)
		}
	}
}

func (f *fixture) delete(e *Eraser, prefix string) {
	f.t.Helper()
	b := f.db.NewBatch()
	defer b.Close()
	if err := e.DeleteRange(b, []byte(prefix), append([]byte(prefix), 0xff, 0xff, 0xff, 0xff, 0xff)); err != nil {
		f.t.Fatal(err)
	}
	if err := b.Commit(pebble.Sync); err != nil {
		f.t.Fatal(err)
	}
}

func (f *fixture) holders(text string) []string { return holders(f.t, f.dir, text) }

// holders returns the files of a folder that hold a text.
func holders(t *testing.T, dir, text string) (names []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		content, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err == nil && bytes.Contains(content, []byte(text)) { // else it was deleted meanwhile
			names = append(names, e.Name())
		}
	}
	return names
}

// gone waits until no file holds the marker: Pebble deletes files a little after it has stopped to need them.
func (f *fixture) gone() {
	f.t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	deadline, cancel := context.WithTimeout(f.t.Context(), 20*time.Second)
	defer cancel()
	for {
		left := f.holders(marker)
		if len(left) == 0 {
			return
		}
		select {
		case <-tick.C:
		case <-deadline.Done():
			f.t.Fatalf("still in %v", left)
		}
	}
}

func TestErase(t *testing.T) {
	f := newFixture(t)
	e := f.eraser()
	defer e.Close()
	f.fill("a", kept)
	f.fill("b", marker)
	f.fill("c", kept)
	if len(f.holders(marker)) == 0 {
		t.Fatal("the search finds nothing")
	}
	f.delete(e, "b")
	e.Wake()
	if err := e.Wait(t.Context()); err != nil {
		t.Fatal(err)
	}
	f.gone()
	if len(f.holders(kept)) == 0 {
		t.Error("the neighbours have gone too")
	}
	if notes, err := e.notes(); err != nil || len(notes) != 0 {
		t.Errorf("%d notes left, %v", len(notes), err)
	}
	if err := e.Wait(t.Context()); err != nil {
		t.Errorf("wait for nothing: %v", err)
	}
}

// TestEraseAfterRestart deletes and stops before anything is erased.
func TestEraseAfterRestart(t *testing.T) {
	f := newFixture(t)
	f.fill("b", marker)
	e := f.eraser()
	f.delete(e, "b")
	e.Close()
	f.close()
	f.open()
	e = f.eraser()
	defer e.Close()
	if err := e.Wait(t.Context()); err != nil {
		t.Fatal(err)
	}
	f.gone()
}

func TestManyNotes(t *testing.T) {
	f := newFixture(t)
	e := f.eraser()
	defer e.Close()
	f.fill("b", marker)
	for i := range maxNotes + 10 {
		f.delete(e, fmt.Sprintf("b%c", rune(i)))
	}
	f.delete(e, "b")
	e.Wake()
	if err := e.Wait(t.Context()); err != nil {
		t.Fatal(err)
	}
	if notes, err := e.notes(); err != nil || len(notes) != 0 {
		t.Errorf("%d notes left, %v", len(notes), err)
	}
	f.gone()
}

func TestWaitEnds(t *testing.T) {
	f := newFixture(t)
	e := f.eraser()
	defer e.Close()
	e.mu.Lock()
	e.busy = true
	e.mu.Unlock()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := e.Wait(ctx); err == nil {
		t.Error("no error")
	}
}

func TestBadNote(t *testing.T) {
	f := newFixture(t)
	if err := f.db.Set([]byte("z-bad"), []byte("x"), pebble.Sync); err != nil {
		t.Fatal(err)
	}
	_, err := New(f.db, f.fs, []byte("z"), slog.New(slog.DiscardHandler))
	if err == nil || !strings.Contains(err.Error(), "note of a deleted range") {
		t.Errorf("got %v", err)
	}
}

type discard struct{}

func (discard) Infof(string, ...any)  {}
func (discard) Errorf(string, ...any) {}
func (discard) Fatalf(f string, args ...any) {
	panic(fmt.Sprintf(f, args...))
}

// TestCloseInTheMiddle closes an eraser while Pebble compacts for it: the compaction ends before Close does, and the next eraser does
// what is left.
func TestCloseInTheMiddle(t *testing.T) {
	f := &fixture{t: t, dir: t.TempDir()}
	var (
		e     *Eraser
		begun = make(chan struct{})
		once  sync.Once
		runs  atomic.Int32
	)
	f.listener = &pebble.EventListener{
		CompactionBegin: func(pebble.CompactionInfo) { // no compaction but the eraser's
			runs.Add(1)
			once.Do(func() {
				e.cancel() // as Close begins
				close(begun)
			})
		},
		CompactionEnd: func(info pebble.CompactionInfo) {
			if info.Err != nil {
				t.Errorf("compaction: %v", info.Err)
			}
			runs.Add(-1)
		},
	}
	f.open()
	t.Cleanup(f.close)
	f.fill("a", marker)
	f.fill("b", kept)
	e = f.eraser()
	f.delete(e, "a")
	e.Wake()
	<-begun
	e.Close()
	if n := runs.Load(); n != 0 {
		t.Errorf("%d compactions go on", n)
	}
	e = f.eraser()
	defer e.Close()
	if err := e.Wait(t.Context()); err != nil {
		t.Fatal(err)
	}
	f.gone()
}

// TestEraseKeys erases keys that hold the marker, in a store of many files: its list of files names them too.
func TestEraseKeys(t *testing.T) {
	f := &fixture{t: t, dir: t.TempDir(), listener: &pebble.EventListener{}} // without compactions of its own
	f.open()
	t.Cleanup(f.close)
	e := f.eraser()
	defer e.Close()
	put := func(format string, n int) {
		for i := range n {
			if err := f.db.Set(fmt.Appendf(nil, format, i), bytes.Repeat([]byte{byte(i)}, 1000), pebble.Sync); err != nil {
				t.Fatal(err)
			}
			if err := f.db.Flush(); err != nil {
				t.Fatal(err)
			}
		}
	}
	put("b"+marker+"%d", 3)
	put("d%03d", 40)
	named := func() (names []string) {
		for _, name := range f.holders(marker) {
			if strings.HasPrefix(name, "MANIFEST-") {
				names = append(names, name)
			}
		}
		return names
	}
	if len(named()) == 0 {
		t.Fatal("no list of files names the keys")
	}
	f.delete(e, "b")
	e.Wake()
	if err := e.Wait(t.Context()); err != nil {
		t.Fatal(err)
	}
	if notes, err := e.notes(); err != nil || len(notes) != 0 {
		t.Errorf("%d notes left, %v", len(notes), err)
	}
	f.gone()
}
