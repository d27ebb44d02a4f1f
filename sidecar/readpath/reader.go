// Package readpath answers keyed reads in a region: from the replica where it is fresh enough and knows what is asked for,
// else from the primary, in the same call.
//
// The layers are decorators over Reader, put together in New. In front of them Path finds out which database a name means
// and what the caller's bookmarks ask for, once for all layers.
package readpath

import (
	"context"
	"net/http"
	"time"

	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/internal/access"
	"github.com/nearside-dev/nearside/internal/bookmark"
	"github.com/nearside-dev/nearside/internal/policy"
)

// Reader answers keyed reads. Answers have their Answer filled in; their columns may be shared, so nobody changes them.
type Reader interface {
	Get(context.Context, *Read, *datav1.GetRequest) (*datav1.GetResponse, error)
	BatchGet(context.Context, *Read, *datav1.BatchGetRequest) (*datav1.BatchGetResponse, error)
	List(context.Context, *Read, *datav1.ListRequest) (*datav1.ListResponse, error)
}

// Read is what all layers need to know of a read beside its message.
type Read struct {
	// Header is the caller's, for the primary.
	Header http.Header
	// Database is the database; nil if this region does not know it, and then only the primary can answer.
	Database *Database
	// Freshness is what the caller asks for. It means nothing without a Database.
	Freshness Freshness
	// View names the part of the rows that the caller may see; empty is all. Results are kept for each.
	View string

	sql  *access.View   // the view itself, for statements; nil is all
	rows *policy.Filter // of the table that a read by key is of; nil is all

	provenance *provenance // filled in by the replica; nil if nobody asks
	passed     string      // why the replica left it to the primary; filled in by it
}

// from returns the same read for the next layer, which is to fill in p.
func (r *Read) from(p *provenance) *Read {
	read := *r
	read.provenance = p
	return &read
}

// Freshness is how fresh an answer must be.
type Freshness struct {
	// Level is ANY, AT_LEAST, MAX_STALENESS or PRIMARY.
	Level datav1.Consistency_Level
	// Bookmark is what an answer must be as fresh as, with AT_LEAST, and MaxWait how long to wait for that.
	Bookmark bookmark.Bookmark
	MaxWait  time.Duration
	// MaxStaleness is how old an answer may be, with MAX_STALENESS.
	MaxStaleness time.Duration
}
