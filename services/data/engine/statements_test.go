package engine

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/nearside-dev/nearside/internal/sqlite"
	"github.com/nearside-dev/nearside/internal/sqlrun"
)

// TestStatementsThatAreNotKept has a connection keep no more of callers' statements than it may, and the engine's own beside them.
func TestStatementsThatAreNotKept(t *testing.T) {
	conn, err := openConn(filepath.Join(t.TempDir(), "db"), sqlite.ReadWrite|sqlite.Create)
	if err != nil {
		t.Fatal(err)
	}
	s := newSession(conn, false)
	defer func() {
		if err := s.close(); err != nil {
			t.Error(err)
		}
	}()
	const own = "SELECT 1"
	if _, err := s.trusted(own); err != nil {
		t.Fatal(err)
	}
	s.guard.trusted = false
	use := func(values int) (kept bool) {
		t.Helper()
		p, err := s.lookup("VALUES " + strings.Repeat("(1, 2), ", values) + "(1, 2)")
		if err != nil {
			t.Fatal(err)
		}
		kept = p.kept
		if _, err := p.Step(); err != nil {
			t.Fatal(err)
		}
		if err := s.release(p); err != nil {
			t.Fatal(err)
		}
		return kept
	}
	for values := range 200 {
		if !use(values) || s.bytes > sqlrun.MaxKeptStatements {
			t.Fatalf("%d values: %d statements kept, %d bytes", values, len(s.cached), s.bytes)
		}
	}
	for i := range 3 {
		if use(100_000 + i) {
			t.Error("a statement of a megabyte is kept")
		}
	}
	for values := range 200 {
		use(300 + values)
	}
	bytes := 0
	for _, e := range s.cached {
		bytes += e.Value.(cacheEntry).p.bytes
	}
	if s.cached[cacheKey{true, own}] == nil {
		t.Error("the engine's own statement is not kept")
	}
	if len(s.cached) != s.recent.Len() || len(s.cached) == maxCachedStatements || bytes != s.bytes || bytes > sqlrun.MaxKeptStatements {
		t.Errorf("%d statements, %d in order, %d bytes, counted %d", len(s.cached), s.recent.Len(), bytes, s.bytes)
	}
}
