package readpath

import (
	"context"
	"net/http"

	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/internal/bookmark"
	"github.com/nearside-dev/nearside/internal/meshdb"
	"github.com/nearside-dev/nearside/internal/rpcerr"
	"github.com/nearside-dev/nearside/sidecar/replica"
)

// Located is a database that this region has a copy of, and what a request's bookmarks say of it.
type Located struct {
	*Database

	Copy *replica.Database
	// Field is the bookmark of the request's field, Header the newest of its header's. Nil is none.
	Field, Header *bookmark.Bookmark

	codec  *bookmark.Codec
	region string
}

// Locate finds the copy that a request with the caller's headers is about. mark is the bookmark of its field. Errors are
// DATABASE_NOT_FOUND, NOT_READY, those of bookmarks and ctx's.
func (p *Path) Locate(ctx context.Context, h http.Header, name, mark string) (*Located, error) {
	read, err := p.read(ctx, h, name, &datav1.Consistency{Bookmark: mark})
	if err != nil {
		return nil, err
	}
	if read.Database == nil {
		if mesh, ok := p.store.Database(meshdb.DatabaseID); !ok || !mesh.Live() || p.codec() == nil || p.directory.MeshProblem() != nil {
			return nil, notReady(name) // it may be known as soon as the copy of _mesh is complete again
		}
		return nil, rpcerr.New(datav1.ErrorReason_ERROR_REASON_DATABASE_NOT_FOUND, "no such database in this region: %s", name).
			With("database", name)
	}
	d, ok := p.store.Database(read.Database.id)
	if !ok {
		return nil, notReady(name)
	}
	l := &Located{Database: read.Database, Copy: d, codec: p.codec(), region: p.region[0]}
	m, err := readMarks(l.codec, &datav1.Consistency{Bookmark: mark}, h)
	if err != nil {
		return nil, err
	}
	l.Field = m.field
	if b, ok := m.newest(read.Database.id); ok {
		l.Header = &b
	}
	return l, nil
}

func notReady(database string) error {
	return rpcerr.New(datav1.ErrorReason_ERROR_REASON_NOT_READY, "this region has no copy of database %s", database)
}

// Answer is an answer of the copy with the bookmark of a version.
func (l *Located) Answer(epoch uint32, version uint64) *datav1.Answer {
	return &datav1.Answer{
		Bookmark: l.bookmark(l.codec, epoch, version), Region: l.region, Source: datav1.Source_SOURCE_REPLICA,
	}
}
