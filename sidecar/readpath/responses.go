package readpath

import (
	"context"
	"net/http"
	"time"

	"github.com/nearside-dev/nearside/internal/keyread"
	"github.com/nearside-dev/nearside/sidecar/memory"
	"github.com/nearside-dev/nearside/sidecar/stamp"
)

// Responses keeps answers of services in the region's memory, among the values of applications: CacheService invalidates them by
// their tag, which is the method's path.
type Responses struct{ path *Path }

// Responses returns p's.
func (p *Path) Responses() Responses { return Responses{p} }

// responseKey begins the keys of answers, which no application can name: its keys are text.
const responseKey = "\xffanswer:"

// Look returns what is kept under a key and holds for a caller with these headers. With a database it is as fresh as their bookmark
// of it.
func (r Responses) Look(ctx context.Context, h http.Header, database string, key []byte) (kept []byte, ok bool) {
	p := r.path
	if database == "" {
		v, ok := p.memory.cache.Value(forever, memory.NoDatabase, responseKey+string(key))
		return v.Bytes, ok
	}
	read, err := p.read(ctx, h, database, nil)
	if err != nil || read.Database == nil {
		return nil, false
	}
	m, ok := p.memory.moment(&read)
	if !ok {
		return nil, false
	}
	v, ok := p.memory.cache.Value(m.Stamp(), read.Database.id, responseKey+string(key))
	return v.Bytes, ok
}

// Begin notes the region's state before a service is asked, and returns what keeps the service's answer. Where the region cannot
// tell when a table changes, nothing is kept.
func (r Responses) Begin(database string, tables []string) (keep func(key []byte, tag string, kept []byte, ttl time.Duration)) {
	p := r.path
	reading, id := stamp.Reading{}, memory.NoDatabase
	var ids []uint32
	if database == "" {
		last := p.store.Stamps().Last()
		reading = stamp.Reading{At: last, Until: last}
	} else if found := p.directory.find(database, false); found != nil {
		id = found.id
		reading, ids = r.readTables(id, tables)
	}
	return func(key []byte, tag string, kept []byte, ttl time.Duration) {
		p.memory.cache.SetValue(reading, id, memory.NewValue{
			Key: responseKey + string(key), Bytes: kept, TTL: ttl, Tags: []string{tag}, Tables: ids,
		})
	}
}

func (r Responses) readTables(id uint32, tables []string) (reading stamp.Reading, ids []uint32) {
	snap, ok := r.path.snapshot(id)
	if !ok {
		return stamp.Reading{}, nil
	}
	reading = snap.Reading()
	for _, name := range tables {
		t, err := keyread.Table(snap.Catalog(), name)
		if err != nil || snap.TableProblem(t) != nil {
			reading = stamp.Reading{}
			break
		}
		ids = append(ids, t.ID)
	}
	if snap.Close() != nil {
		return stamp.Reading{}, nil
	}
	return reading, ids
}
