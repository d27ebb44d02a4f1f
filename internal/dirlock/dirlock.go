//go:build unix

// Package dirlock keeps two processes from using one data folder.
package dirlock

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const fileName = "lock"

// A process that was killed keeps its files until the kernel has taken its memory back: who starts it again at once waits for that.
const (
	patience = 2 * time.Second
	interval = 20 * time.Millisecond
)

// ErrLocked means that another process uses the folder.
var ErrLocked = errors.New("is used by another process")

// Lock is a folder in use.
type Lock struct {
	file *os.File
}

// Acquire makes the folder if there is none and takes it until Release or the end of the process, however that comes. If
// another process has it, and still has it 2 seconds later or when ctx ends, the error is ErrLocked and names that process.
func Acquire(ctx context.Context, dir string) (*Lock, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make data folder: %w", err)
	}
	f, err := os.OpenFile(filepath.Join(dir, fileName), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock data folder: %w", err)
	}
	if err := wait(ctx, f); err != nil {
		holder := make([]byte, 32)
		n, _ := f.ReadAt(holder, 0) // an unnamed holder is one too
		f.Close()                   //nolint:errcheck // nothing was written
		if errors.Is(err, syscall.EWOULDBLOCK) {
			err = ErrLocked
		}
		if pid, atoiErr := strconv.Atoi(strings.TrimSpace(string(holder[:n]))); atoiErr == nil {
			return nil, fmt.Errorf("data folder %s %w (%d)", dir, err, pid)
		}
		return nil, fmt.Errorf("data folder %s %w", dir, err)
	}
	l := &Lock{file: f}
	l.name()
	return l, nil
}

// wait locks the file, and tries again for a while if another has it.
func wait(ctx context.Context, f *os.File) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if !errors.Is(err, syscall.EWOULDBLOCK) {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(interval):
		}
	}
}

// name writes who has the folder, for whom it keeps out. On a full disk there is no room for that, and the lock holds all the same.
func (l *Lock) name() {
	if l.file.Truncate(0) == nil {
		l.file.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0) //nolint:errcheck // as the comment says
	}
}

// Release gives the folder back. The file stays: removing it would let two processes lock two files of one name.
func (l *Lock) Release() error { return l.file.Close() }
