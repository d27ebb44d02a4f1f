// Package failstop is a file system for Pebble whose first failed write is its last.
//
// Pebble meets a failed write in ways that its owner cannot survive: commits that wait for no fsync learn of it only at the
// next rotation of the write-ahead log, which panics with a mutex in a state that ends the process, and a failed flush is
// tried again without end. Here the first failure freezes the disk as it is, as if the process had been killed at that
// moment, and tells the owner; Pebble itself is told that all went well, so that it unwinds its locks and can be closed. It
// is the owner who must not believe it: ask Failed after each commit.
package failstop

import (
	"fmt"
	"io"
	"os"
	"sync/atomic"

	"github.com/cockroachdb/errors/oserror"
	"github.com/cockroachdb/pebble/v2/vfs"
)

// FS wraps a file system. Reads pass through. Its methods are safe for concurrent use if the wrapped ones are.
type FS struct {
	vfs.FS

	onFail func(error)
	armed  atomic.Bool
	early  atomic.Int32 // failures before it was armed
	failed atomic.Pointer[error]
}

var _ vfs.FS = (*FS)(nil)

// New wraps fs. onFail is called once, with the first failure, on the goroutine that met it, which may hold locks of the
// store.
func New(fs vfs.FS, onFail func(error)) *FS { return &FS{FS: fs, onFail: onFail} }

// maxEarly is how many failures pass through before the watch begins. Whoever meets more of them tries again without end.
const maxEarly = 16

// Arm begins the watch. Before it errors pass through, so that opening a store on a bad disk fails as it should, up to so
// many that it is plain that it never would: then the disk freezes all the same. Ask Failed after Arm.
func (f *FS) Arm() { f.armed.Store(true) }

// Failed returns the failure that froze the disk, or nil.
func (f *FS) Failed() error {
	if err := f.failed.Load(); err != nil {
		return *err
	}
	return nil
}

// Fail freezes the disk for a reason of the caller's own. Only the first reason counts.
func (f *FS) Fail(err error) {
	if f.failed.CompareAndSwap(nil, &err) {
		f.onFail(err)
	}
}

// Unwrap implements vfs.FS.
func (f *FS) Unwrap() vfs.FS { return f.FS }

// write runs a change of the disk, unless it is frozen.
func (f *FS) write(op, name string, do func() error) error {
	if f.failed.Load() != nil {
		return nil
	}
	err := do()
	if err == nil || !f.armed.Load() && f.early.Add(1) <= maxEarly {
		return err
	}
	f.Fail(fmt.Errorf("%s %s: %w", op, name, err))
	return nil
}

// remove is write for deletions, where a file that is not there is an answer and no failure.
func (f *FS) remove(op, name string, do func(string) error) error {
	var missing error
	err := f.write(op, name, func() error {
		err := do(name)
		if oserror.IsNotExist(err) {
			missing, err = err, nil
		}
		return err
	})
	if missing != nil {
		return missing
	}
	return err
}

// open is write for calls that give a file.
func (f *FS) open(op, name string, do func() (vfs.File, error)) (vfs.File, error) {
	opened := vfs.File(discard{})
	err := f.write(op, name, func() error {
		f, err := do()
		if err == nil {
			opened = f
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return &file{File: opened, fs: f, name: name}, nil
}

// Create implements vfs.FS.
func (f *FS) Create(name string, category vfs.DiskWriteCategory) (vfs.File, error) {
	return f.open("create", name, func() (vfs.File, error) { return f.FS.Create(name, category) })
}

// OpenReadWrite implements vfs.FS.
func (f *FS) OpenReadWrite(name string, category vfs.DiskWriteCategory, opts ...vfs.OpenOption) (vfs.File, error) {
	return f.open("open", name, func() (vfs.File, error) { return f.FS.OpenReadWrite(name, category, opts...) })
}

// ReuseForWrite implements vfs.FS.
func (f *FS) ReuseForWrite(oldname, newname string, category vfs.DiskWriteCategory) (vfs.File, error) {
	return f.open("reuse", newname, func() (vfs.File, error) { return f.FS.ReuseForWrite(oldname, newname, category) })
}

// OpenDir implements vfs.FS. Folders are opened to be synced.
func (f *FS) OpenDir(name string) (vfs.File, error) {
	return f.open("open", name, func() (vfs.File, error) { return f.FS.OpenDir(name) })
}

// Link implements vfs.FS.
func (f *FS) Link(oldname, newname string) error {
	return f.write("link", newname, func() error { return f.FS.Link(oldname, newname) })
}

// Rename implements vfs.FS.
func (f *FS) Rename(oldname, newname string) error {
	return f.write("rename", newname, func() error { return f.FS.Rename(oldname, newname) })
}

// Remove implements vfs.FS.
func (f *FS) Remove(name string) error { return f.remove("remove", name, f.FS.Remove) }

// RemoveAll implements vfs.FS.
func (f *FS) RemoveAll(name string) error { return f.remove("remove", name, f.FS.RemoveAll) }

// MkdirAll implements vfs.FS.
func (f *FS) MkdirAll(dir string, perm os.FileMode) error {
	return f.write("create", dir, func() error { return f.FS.MkdirAll(dir, perm) })
}

// file is an open file whose writes obey the file system.
type file struct {
	vfs.File

	fs   *FS
	name string
}

// Write implements vfs.File.
func (f *file) Write(p []byte) (n int, err error) {
	err = f.fs.write("write", f.name, func() error {
		n, err = f.File.Write(p)
		return err
	})
	if err == nil {
		n = len(p)
	}
	return n, err
}

// WriteAt implements vfs.File.
func (f *file) WriteAt(p []byte, off int64) (n int, err error) {
	err = f.fs.write("write", f.name, func() error {
		n, err = f.File.WriteAt(p, off)
		return err
	})
	if err == nil {
		n = len(p)
	}
	return n, err
}

// Preallocate implements vfs.File.
func (f *file) Preallocate(offset, length int64) error {
	return f.fs.write("preallocate", f.name, func() error { return f.File.Preallocate(offset, length) })
}

// Sync implements vfs.File.
func (f *file) Sync() error { return f.fs.write("sync", f.name, f.File.Sync) }

// SyncData implements vfs.File.
func (f *file) SyncData() error { return f.fs.write("sync", f.name, f.File.SyncData) }

// SyncTo implements vfs.File.
func (f *file) SyncTo(length int64) (fullSync bool, err error) {
	err = f.fs.write("sync", f.name, func() error {
		fullSync, err = f.File.SyncTo(length)
		return err
	})
	return fullSync, err
}

// Stat implements vfs.File. The log asks for the size of a file that it reuses, and panics at an error.
func (f *file) Stat() (info vfs.FileInfo, err error) {
	err = f.fs.write("stat", f.name, func() error {
		info, err = f.File.Stat()
		return err
	})
	if err == nil && info == nil {
		return discard{}.Stat()
	}
	return info, err
}

// Close implements vfs.File. The descriptor is released even when the disk is frozen.
func (f *file) Close() error {
	if f.fs.failed.Load() != nil {
		_ = f.File.Close() // whatever it says, no more can be lost
		return nil
	}
	return f.fs.write("close", f.name, f.File.Close)
}

// discard stands for a file that could not be made.
type discard struct{}

var _ vfs.File = discard{}

func (discard) Close() error                           { return nil }
func (discard) Read([]byte) (int, error)               { return 0, io.EOF }
func (discard) ReadAt([]byte, int64) (int, error)      { return 0, io.EOF }
func (discard) Write(p []byte) (int, error)            { return len(p), nil }
func (discard) WriteAt(p []byte, _ int64) (int, error) { return len(p), nil }
func (discard) Preallocate(int64, int64) error         { return nil }
func (discard) Stat() (vfs.FileInfo, error)            { return vfs.NewMemFile(nil).Stat() }
func (discard) Sync() error                            { return nil }
func (discard) SyncTo(int64) (bool, error)             { return true, nil }
func (discard) SyncData() error                        { return nil }
func (discard) Prefetch(int64, int64) error            { return nil }
func (discard) Fd() uintptr                            { return vfs.InvalidFd }
