package readpath

import (
	"cmp"
	"slices"
	"sync"
	"time"

	"github.com/nearside-dev/nearside/internal/sqlsplit"
)

// Bounds of what is kept of statements that were left to the primary.
const (
	maxFallbackDatabases = 256
	maxFallbackName      = 100
	maxFallbackStatement = 500
	// sampleEvery is how often the text of one is taken down: all of them may go to the primary.
	sampleEvery = time.Second
)

// Fallback is a reason for which statements of a database were left to the primary.
type Fallback struct {
	Database, Reason string
	Count            uint64
	Last             time.Time
	Statement        string // one of the last second, without literals
}

// fallbacks counts statements that were left to the primary. The zero value is ready.
type fallbacks struct {
	mu         sync.Mutex
	byDatabase map[string]map[string]*counted // by reason
}

type counted struct {
	Fallback

	sampled time.Time
}

// note counts a statement.
func (f *fallbacks) note(database, reason, sql string) {
	now := time.Now()
	database = database[:min(len(database), maxFallbackName)]
	f.mu.Lock()
	defer f.mu.Unlock()
	reasons := f.byDatabase[database]
	if reasons == nil {
		if len(f.byDatabase) == maxFallbackDatabases {
			return // the metric has it
		}
		if f.byDatabase == nil {
			f.byDatabase = make(map[string]map[string]*counted)
		}
		reasons = make(map[string]*counted)
		f.byDatabase[database] = reasons
	}
	c := reasons[reason]
	if c == nil {
		c = &counted{Fallback: Fallback{Database: database, Reason: reason}}
		reasons[reason] = c
	}
	c.Count++
	c.Last = now
	if now.Sub(c.sampled) >= sampleEvery {
		c.Statement, c.sampled = sqlsplit.Anonymous(sql, maxFallbackStatement), now
	}
}

// Fallbacks returns what was left to the primary since the region started, by database and reason.
func (p *Path) Fallbacks() []Fallback {
	f := &p.fallbacks
	f.mu.Lock()
	defer f.mu.Unlock()
	var all []Fallback
	for _, reasons := range f.byDatabase {
		for _, c := range reasons {
			all = append(all, c.Fallback)
		}
	}
	slices.SortFunc(all, func(a, b Fallback) int {
		return cmp.Or(cmp.Compare(a.Database, b.Database), cmp.Compare(b.Count, a.Count), cmp.Compare(a.Reason, b.Reason))
	})
	return all
}
