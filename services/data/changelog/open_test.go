package changelog

import (
	"errors"
	"log/slog"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
)

// TestOpenOnAFullDisk opens a log whose disk has room for small files and not for the tables that recovery writes: an error
// must come of it, where Pebble would try again without end.
func TestOpenOnAFullDisk(t *testing.T) {
	disk := vfs.NewCrashableMem()
	l := openLog(t, disk)
	head := appendRun(t, l, 7, Head{}, 3)
	crashed := disk.CrashClone(vfs.CrashCloneCfg{})
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	errFull := errors.New("no space left")
	full := true
	fs := errorfs.Wrap(crashed, errorfs.InjectorFunc(func(op errorfs.Op) error {
		if full && op.Kind.ReadOrWrite() == errorfs.OpIsWrite && strings.HasSuffix(op.Path, ".sst") {
			return errFull
		}
		return nil
	}))
	options := Options{FS: fs, Logger: slog.New(slog.DiscardHandler)}
	for range 2 {
		l, err := Open("log", options)
		if !errors.Is(err, errFull) {
			t.Fatalf("opened %v, %v", l, err)
		}
	}
	full = false
	l, err := Open("log", options)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	if got, err := l.Head(7); err != nil || got != head {
		t.Errorf("head %v, want %v, %v", got, head, err)
	}
}
