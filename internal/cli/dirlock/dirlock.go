//go:build unix

// Package dirlock keeps two processes from using one data folder.
package dirlock

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

const fileName = "lock"

// ErrLocked means that another process uses the folder.
var ErrLocked = errors.New("is used by another process")

// Lock is a folder in use.
type Lock struct {
	file *os.File
}

// Acquire makes the folder if there is none and takes it until Release or the end of the process, however that comes. If
// another process has it, the error is ErrLocked and names that process.
func Acquire(dir string) (*Lock, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make data folder: %w", err)
	}
	f, err := os.OpenFile(filepath.Join(dir, fileName), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock data folder: %w", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
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
	if err := l.name(); err != nil {
		return nil, errors.Join(fmt.Errorf("lock data folder: %w", err), l.Release())
	}
	return l, nil
}

// name writes who has the folder, for whom it keeps out.
func (l *Lock) name() error {
	if err := l.file.Truncate(0); err != nil {
		return err
	}
	_, err := l.file.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0)
	return err
}

// Release gives the folder back. The file stays: removing it would let two processes lock two files of one name.
func (l *Lock) Release() error { return l.file.Close() }
