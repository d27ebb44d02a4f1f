package failstop

import (
	"errors"
	"io"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
)

// disk is a file system that can be broken.
func disk() (fs vfs.FS, mem *vfs.MemFS, broken *bool) {
	mem, broken = vfs.NewMem(), new(bool)
	return errorfs.Wrap(mem, errorfs.InjectorFunc(func(op errorfs.Op) error {
		if *broken && op.Kind.ReadOrWrite() == errorfs.OpIsWrite {
			return errBroken
		}
		return nil
	})), mem, broken
}

var errBroken = errors.New("broken")

func TestUnarmedErrorsPassThrough(t *testing.T) {
	inner, _, broken := disk()
	fs := New(inner, func(err error) { t.Errorf("told of %v", err) })
	*broken = true
	if _, err := fs.Create("a", "test"); !errors.Is(err, errBroken) {
		t.Errorf("got %v", err)
	}
	if err := fs.Failed(); err != nil {
		t.Errorf("failed: %v", err)
	}
}

func TestMissingFileIsNoFailure(t *testing.T) {
	fs := New(vfs.NewMem(), func(err error) { t.Errorf("told of %v", err) })
	fs.Arm()
	if err := fs.Remove("nothing"); err == nil {
		t.Error("removed what is not there")
	}
	if err := fs.Failed(); err != nil {
		t.Errorf("failed: %v", err)
	}
}

func TestFirstFailureFreezes(t *testing.T) {
	inner, mem, broken := disk()
	var told []error
	fs := New(inner, func(err error) { told = append(told, err) })
	fs.Arm()
	f, err := fs.Create("a", "test")
	if err != nil {
		t.Fatal(err)
	}
	write := func(text string) {
		t.Helper()
		if n, err := f.Write([]byte(text)); n != len(text) || err != nil {
			t.Errorf("write: %d, %v", n, err)
		}
	}
	write("before")
	*broken = true
	write("failing")
	*broken = false // the disk recovers, but what it lost it has lost
	write("after")
	if err := errors.Join(f.Sync(), f.SyncData(), f.Preallocate(0, 10), f.Close()); err != nil {
		t.Errorf("later calls: %v", err)
	}
	g, err := fs.Create("b", "test")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := g.Stat(); err != nil {
		t.Errorf("stat: %v", err)
	}
	if _, err := g.Write([]byte("x")); err != nil {
		t.Errorf("write: %v", err)
	}
	if err := errors.Join(g.Close(), fs.Rename("a", "c"), fs.Remove("a"), fs.MkdirAll("d", 0o700)); err != nil {
		t.Errorf("changes: %v", err)
	}
	fs.Fail(errors.New("another"))
	if len(told) != 1 || !errors.Is(told[0], errBroken) || !errors.Is(fs.Failed(), errBroken) {
		t.Errorf("told of %v, failed: %v", told, fs.Failed())
	}

	names, err := mem.List("")
	if err != nil || len(names) != 1 || names[0] != "a" {
		t.Fatalf("on the disk: %v, %v", names, err)
	}
	r, err := fs.Open("a")
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if b, err := io.ReadAll(r); string(b) != "before" || err != nil {
		t.Errorf("a holds %q, %v", b, err)
	}
}
