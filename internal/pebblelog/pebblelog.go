// Package pebblelog is the logger that every Pebble store of ours is given.
//
// Pebble's default logger ends the process when a commit fails. Ours remembers the failure instead, tells the role that
// owns the store, and returns; Pebble then reports success for a commit that failed, so whoever commits must ask Failed
// afterwards.
package pebblelog

import (
	"fmt"
	"log/slog"
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2"
)

// Logger implements pebble.Logger on slog.
type Logger struct {
	logger  *slog.Logger
	onFatal func(error) // may be nil

	failed atomic.Pointer[error]
}

var _ pebble.Logger = (*Logger)(nil)

// New returns a Logger. onFatal is called once, with the first fatal error, on the goroutine that met it; it must not call
// into the store.
func New(logger *slog.Logger, onFatal func(error)) *Logger {
	return &Logger{logger: logger, onFatal: onFatal}
}

// Failed returns the store's first fatal error, or nil. A store that failed is not to be written again.
func (l *Logger) Failed() error {
	if err := l.failed.Load(); err != nil {
		return *err
	}
	return nil
}

// Infof logs at debug level: Pebble tells of every flush.
func (l *Logger) Infof(format string, args ...any) {
	l.logger.Debug(fmt.Sprintf(format, args...))
}

// Errorf logs an error that Pebble can live with.
func (l *Logger) Errorf(format string, args ...any) {
	l.logger.Error(fmt.Sprintf(format, args...))
}

// Fatalf remembers the store's failure.
func (l *Logger) Fatalf(format string, args ...any) {
	err := fmt.Errorf(format, args...)
	if !l.failed.CompareAndSwap(nil, &err) {
		return
	}
	l.logger.Error("store failed", slog.Any("error", err))
	if l.onFatal != nil {
		l.onFatal(err)
	}
}
