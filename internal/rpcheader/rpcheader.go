// Package rpcheader names the HTTP headers that callers and nodes exchange, and writes an answer's freshness into them.
package rpcheader

import (
	"net/http"
	"strconv"
	"strings"

	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
)

// The mesh's headers, in lower case as they go over HTTP/2.
const (
	Bookmark       = "nearside-bookmark"     // one bookmark, or several of different databases separated by commas
	Region         = "nearside-region"       // the region whose listener answered
	Source         = "nearside-source"       // MEMORY, REPLICA or PRIMARY
	StalenessMs    = "nearside-staleness-ms" // how old the copy can be
	IdempotencyKey = "idempotency-key"
	TraceParent    = "traceparent"
	TraceState     = "tracestate"
	RequestID      = "x-request-id"
	Origin         = "nearside-origin"    // the address of the caller whose call a node passes on; believed of nodes alone
	AskedFor       = "nearside-asked-for" // the region that another one asks, for what it may not hold itself
)

// GeneratedKeyPrefix begins the idempotency keys that nodes make for calls that came without one, so that they can repeat
// them. They are forgotten after minutes: their callers do not know them.
const GeneratedKeyPrefix = "~"

// MaxBookmarks is how many bookmarks one header may hold.
const MaxBookmarks = 32

// SetAnswer writes the answer's fields as headers.
func SetAnswer(h http.Header, a *datav1.Answer) {
	if a == nil {
		return
	}
	if a.GetBookmark() != "" {
		h.Set(Bookmark, a.GetBookmark())
	}
	h.Set(Region, a.GetRegion())
	if a.GetSource() != datav1.Source_SOURCE_UNSPECIFIED {
		h.Set(Source, SourceName(a.GetSource()))
	}
	h.Set(StalenessMs, strconv.FormatUint(uint64(a.GetStalenessMs()), 10))
}

// SourceName is the source as headers and the CLI write it: MEMORY, REPLICA, PRIMARY, or empty.
func SourceName(s datav1.Source) string {
	if s == datav1.Source_SOURCE_UNSPECIFIED {
		return ""
	}
	return strings.TrimPrefix(s.String(), "SOURCE_")
}
