package meshtest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"testing"
)

// Shared starts a mesh that all tests of a package share, for examples above all, which have no testing.TB. Call it from
// TestMain; stop ends the mesh and removes its data. What goes wrong panics.
func Shared(o Options) (m *Mesh, stop func()) {
	dir, err := os.MkdirTemp("", "nearside-mesh-")
	if err != nil {
		panic(err)
	}
	tb := &mainTB{dir: dir}
	return Start(tb, o), func() {
		for _, cleanup := range slices.Backward(tb.cleanups) {
			cleanup()
		}
		if err := os.RemoveAll(dir); err != nil {
			panic(err)
		}
	}
}

// mainTB is as much of a testing.TB as a mesh needs; the rest is nil.
type mainTB struct {
	testing.TB

	dir      string
	cleanups []func()
}

func (tb *mainTB) Context() context.Context { return context.Background() }

func (tb *mainTB) Helper()           {}
func (tb *mainTB) TempDir() string   { return tb.dir }
func (tb *mainTB) Cleanup(f func())  { tb.cleanups = append(tb.cleanups, f) }
func (tb *mainTB) Error(args ...any) { panic(errors.New(fmt.Sprint(args...))) }
func (tb *mainTB) Fatal(args ...any) { panic(errors.New(fmt.Sprint(args...))) }
func (tb *mainTB) Fatalf(format string, args ...any) {
	panic(fmt.Errorf(format, args...))
}
func (tb *mainTB) Errorf(format string, args ...any) {
	panic(fmt.Errorf(format, args...))
}
