package readpath

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/gen/nearside/data/v1/datav1connect"
	"github.com/nearside-dev/nearside/internal/access"
	"github.com/nearside-dev/nearside/internal/bookmark"
	"github.com/nearside-dev/nearside/internal/meshdb"
	"github.com/nearside-dev/nearside/sidecar/memory"
	"github.com/nearside-dev/nearside/sidecar/replica"
)

// Options configures a Path. All but the memory and the registerer are required.
type Options struct {
	Region     string
	Store      *replica.Store
	Directory  *Directory
	Primary    Primary
	SQL        SQL
	Memory     *memory.Cache // optional: without it nothing is kept
	Guard      *access.Guard // asked before reads that are answered at once; nil lets everything through
	Logger     *slog.Logger
	Registerer prometheus.Registerer // optional
}

// Path is a region's read path. It may be used concurrently.
type Path struct {
	store     *replica.Store
	directory *Directory
	first     Reader
	memory    *memoryReader  // for the values that are kept beside the rows
	replica   *replicaReader // answers SQL, which nothing else here does
	results   *results       // in front of it
	sql       SQL
	streams   chan struct{} // a place for each stream of SQL
	metrics   *metrics
	guard     *access.Guard
	fallbacks fallbacks // statements that went to the primary
	region    []string  // alone, as a header has it
	key       atomic.Pointer[key]
}

// key is the mesh's bookmark key and its codec.
type key struct {
	secret []byte
	codec  *bookmark.Codec
}

// New returns a region's read path. The error is a metric's that the registerer has already.
func New(o Options) (*Path, error) {
	m, err := newMetrics(o.Registerer)
	if err != nil {
		return nil, err
	}
	p := &Path{
		store: o.Store, directory: o.Directory, metrics: m, region: []string{o.Region}, sql: o.SQL,
		streams: make(chan struct{}, maxStreams), guard: o.Guard,
	}

	// A read goes down from here until a layer can answer it.
	var reader Reader = &primaryReader{primary: o.Primary}
	p.replica = &replicaReader{
		next: reader, store: o.Store, codec: p.codec, region: o.Region, logger: o.Logger, metrics: m,
	}
	p.memory = &memoryReader{next: p.replica, cache: o.Memory, store: o.Store, codec: p.codec, region: o.Region}
	p.first = p.memory
	p.results = &results{memory: p.memory, replica: p.replica, sql: o.SQL}
	return p, nil
}

// WaitMesh waits until the copy of _mesh has what a bookmark names, or until ctx ends: what a caller has done to who may do what
// then holds here too.
func (p *Path) WaitMesh(ctx context.Context, text string) {
	codec := p.codec()
	mesh, ok := p.store.Database(meshdb.DatabaseID)
	if codec == nil || !ok {
		return
	}
	if b, err := codec.Decode(text); err == nil && b.DatabaseID == meshdb.DatabaseID {
		_ = mesh.WaitFor(ctx, b.Epoch, b.Version) // it comes later then
	}
}

// Get answers a Get with the caller's headers.
func (p *Path) Get(ctx context.Context, h http.Header, req *datav1.GetRequest) (*datav1.GetResponse, error) {
	read, err := p.keyed(ctx, h, datav1connect.DataServiceGetProcedure, req)
	if err != nil {
		return nil, err
	}
	res, err := p.first.Get(ctx, &read, req)
	p.metrics.answered(methodGet, res.GetAnswer())
	return res, err
}

// BatchGet answers a BatchGet with the caller's headers.
func (p *Path) BatchGet(ctx context.Context, h http.Header, req *datav1.BatchGetRequest) (*datav1.BatchGetResponse, error) {
	read, err := p.keyed(ctx, h, datav1connect.DataServiceBatchGetProcedure, req)
	if err != nil {
		return nil, err
	}
	res, err := p.first.BatchGet(ctx, &read, req)
	p.metrics.answered(methodBatchGet, res.GetAnswer())
	return res, err
}

// List answers a List with the caller's headers.
func (p *Path) List(ctx context.Context, h http.Header, req *datav1.ListRequest) (*datav1.ListResponse, error) {
	read, err := p.keyed(ctx, h, datav1connect.DataServiceListProcedure, req)
	if err != nil {
		return nil, err
	}
	res, err := p.first.List(ctx, &read, req)
	p.metrics.answered(methodList, res.GetAnswer())
	return res, err
}

// read finds out what a request is about. What this region cannot tell is left to the primary.
func (p *Path) read(ctx context.Context, h http.Header, name string, c *datav1.Consistency) (Read, error) {
	read := Read{Header: h}
	codec := p.codec()
	if codec == nil {
		return read, nil
	}
	m, err := readMarks(codec, c, h)
	if err != nil {
		return Read{}, err
	}
	meshMark, marked := m.mesh()
	if marked {
		// The caller knows of a database made or deleted at that version of _mesh.
		if ok, err := p.reachMesh(ctx, meshMark, maxWait(c)); err != nil || !ok {
			return read, err
		}
	}
	d := p.directory.find(name, marked)
	if d == nil {
		return read, nil
	}
	read.Database = d
	read.Freshness, err = m.freshness(c, d)
	return read, err
}

// reachMesh waits for the copy of _mesh and reports whether it has reached a bookmark.
func (p *Path) reachMesh(ctx context.Context, b bookmark.Bookmark, wait time.Duration) (bool, error) {
	mesh, ok := p.store.Database(meshdb.DatabaseID)
	if !ok {
		return false, nil
	}
	return p.metrics.waitFor(ctx, mesh, b, wait)
}

// waitFor waits until a copy is as fresh as a bookmark and reports whether it is. Errors are BOOKMARK_LOST and ctx's.
func (m *metrics) waitFor(ctx context.Context, d *replica.Database, b bookmark.Bookmark, wait time.Duration) (bool, error) {
	if epoch, version := d.Applied(); epoch == b.Epoch && version >= b.Version {
		return true, nil
	}
	begin := time.Now()
	waiting, cancel := context.WithTimeout(ctx, wait)
	err := d.WaitFor(waiting, b.Epoch, b.Version)
	cancel()
	m.waitSeconds.Observe(time.Since(begin).Seconds())
	switch {
	case err == nil:
		m.waitsReached.Inc()
		return true, nil
	case errors.Is(err, replica.ErrBookmarkLost):
		return false, bookmarkLost(b, err)
	case ctx.Err() != nil:
		return false, ctx.Err()
	default: // it took too long, or the copy is not served
		m.waitsFailed.Inc()
		return false, nil
	}
}

// codec returns the codec of the mesh's bookmarks, or nil while the mesh is not known.
func (p *Path) codec() *bookmark.Codec {
	id, ok := p.store.Identity()
	if !ok {
		return nil
	}
	if k := p.key.Load(); k != nil && bytes.Equal(k.secret, id.BookmarkKey) {
		return k.codec
	}
	codec, err := bookmark.New(id.BookmarkKey)
	if err != nil {
		return nil // a key that no bookmark was made with: the primary knows
	}
	p.key.Store(&key{secret: id.BookmarkKey, codec: codec})
	return codec
}
