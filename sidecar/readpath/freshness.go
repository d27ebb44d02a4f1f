package readpath

import (
	"errors"
	"net/http"
	"strconv"
	"strings"
	"time"

	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/internal/bookmark"
	"github.com/nearside-dev/nearside/internal/meshdb"
	"github.com/nearside-dev/nearside/internal/rpcerr"
	"github.com/nearside-dev/nearside/internal/rpcheader"
)

const (
	defaultMaxWait = 50 * time.Millisecond
	maxMaxWait     = 10 * time.Second
)

// marks are the bookmarks of a request.
type marks struct {
	field  *bookmark.Bookmark
	header []bookmark.Bookmark
}

// readMarks decodes a request's bookmarks. Errors are BOOKMARK_MALFORMED and BOOKMARK_FORGED.
func readMarks(codec *bookmark.Codec, c *datav1.Consistency, h http.Header) (m marks, err error) {
	if text := c.GetBookmark(); text != "" {
		b, err := codec.Decode(text)
		if err != nil {
			return marks{}, bookmarkError(err)
		}
		m.field = &b
	}
	if lines := h.Values(rpcheader.Bookmark); len(lines) > 0 {
		if m.header, err = codec.DecodeList(strings.Join(lines, ","), rpcheader.MaxBookmarks); err != nil {
			return marks{}, bookmarkError(err)
		}
	}
	return m, nil
}

func bookmarkError(err error) error {
	if errors.Is(err, bookmark.ErrForged) {
		return rpcerr.New(datav1.ErrorReason_ERROR_REASON_BOOKMARK_FORGED, "the bookmark was not made by this mesh")
	}
	return rpcerr.New(datav1.ErrorReason_ERROR_REASON_BOOKMARK_MALFORMED, "not a bookmark: %w", err)
}

// newest returns the newest of the header's bookmarks of a database. Those of others are none of this read's business.
func (m marks) newest(database uint32) (newest bookmark.Bookmark, ok bool) {
	for _, b := range m.header {
		if b.DatabaseID == database && (!ok || later(b, newest)) {
			newest, ok = b, true
		}
	}
	return newest, ok
}

func later(a, b bookmark.Bookmark) bool {
	return a.Epoch > b.Epoch || a.Epoch == b.Epoch && a.Version > b.Version
}

// mesh returns the header's bookmark of _mesh: what names mean must be at least as fresh as it.
func (m marks) mesh() (bookmark.Bookmark, bool) { return m.newest(meshdb.DatabaseID) }

// freshness returns what a request for a database asks for. The field's bookmark goes before the header's. Errors are
// BOOKMARK_WRONG_DATABASE and FIELD_INVALID.
func (m marks) freshness(c *datav1.Consistency, d *Database) (Freshness, error) {
	f := Freshness{Level: c.GetLevel(), MaxWait: maxWait(c)}
	var marked bool
	if m.field != nil {
		if m.field.DatabaseID != d.id {
			return Freshness{}, rpcerr.New(datav1.ErrorReason_ERROR_REASON_BOOKMARK_WRONG_DATABASE,
				"the bookmark is not one of database %s", d.name)
		}
		f.Bookmark, marked = *m.field, true
	} else {
		f.Bookmark, marked = m.newest(d.id)
	}
	switch f.Level {
	case datav1.Consistency_LEVEL_UNSPECIFIED:
		f.Level = datav1.Consistency_LEVEL_ANY
		if marked {
			f.Level = datav1.Consistency_LEVEL_AT_LEAST
		}
	case datav1.Consistency_LEVEL_AT_LEAST:
		if !marked && len(m.header) == 0 {
			return Freshness{}, rpcerr.InvalidField("consistency.bookmark", "is required with LEVEL_AT_LEAST")
		}
		if !marked { // the session has not touched this database yet
			f.Level = datav1.Consistency_LEVEL_ANY
		}
	case datav1.Consistency_LEVEL_MAX_STALENESS:
		if c.GetMaxStaleness() == nil {
			return Freshness{}, rpcerr.InvalidField("consistency.max_staleness", "is required with LEVEL_MAX_STALENESS")
		}
		f.MaxStaleness = c.GetMaxStaleness().AsDuration()
	default:
	}
	return f, nil
}

func maxWait(c *datav1.Consistency) time.Duration {
	if c.GetMaxWait() == nil {
		return defaultMaxWait
	}
	return min(max(c.GetMaxWait().AsDuration(), 0), maxMaxWait)
}

func bookmarkLost(b bookmark.Bookmark, err error) error {
	return rpcerr.New(datav1.ErrorReason_ERROR_REASON_BOOKMARK_LOST, "the bookmark's state is lost: %w", err).
		With("epoch", strconv.FormatUint(uint64(b.Epoch), 10)).
		With("version", strconv.FormatUint(b.Version, 10))
}
