package data

import (
	"context"
	"errors"
	"net/http"
	"strconv"

	"connectrpc.com/connect"

	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/internal/bookmark"
	"github.com/nearside-dev/nearside/internal/budget"
	"github.com/nearside-dev/nearside/internal/rpcerr"
	"github.com/nearside-dev/nearside/internal/rpcheader"
	"github.com/nearside-dev/nearside/internal/sqlrun"
	"github.com/nearside-dev/nearside/internal/sqlsplit"
	"github.com/nearside-dev/nearside/services/data/changelog"
	"github.com/nearside-dev/nearside/services/data/engine"
	"github.com/nearside-dev/nearside/services/data/registry"
)

// mayOnlyRead reports whether a statement is worth asking a read connection about.
func mayOnlyRead(sql string) bool {
	switch sqlsplit.Kind(sql) {
	case "SELECT", "VALUES", "WITH", "EXPLAIN", "PRAGMA":
		return true
	default:
		return false
	}
}

// checkFresh refuses bookmarks that a read of the primary's state h cannot satisfy. All others it does satisfy: the primary
// has everything it ever answered.
func (s *Service) checkFresh(db *registry.Database, h changelog.Head, c *datav1.Consistency, header http.Header) error {
	if text := c.GetBookmark(); text != "" {
		b, err := s.bookmarks.Decode(text)
		if err != nil {
			return bookmarkError(err)
		}
		if b.DatabaseID != db.ID() {
			return rpcerr.New(datav1.ErrorReason_ERROR_REASON_BOOKMARK_WRONG_DATABASE,
				"the bookmark is not one of database %s", db.Name)
		}
		return reached(b, h)
	}
	if c.GetLevel() == datav1.Consistency_LEVEL_MAX_STALENESS && c.GetMaxStaleness() == nil {
		return rpcerr.InvalidField("consistency.max_staleness", "is required with LEVEL_MAX_STALENESS")
	}
	if c.GetLevel() == datav1.Consistency_LEVEL_AT_LEAST && header.Get(rpcheader.Bookmark) == "" {
		return rpcerr.InvalidField("consistency.bookmark", "is required with LEVEL_AT_LEAST")
	}
	if header.Get(rpcheader.Bookmark) == "" {
		return nil
	}
	all, err := s.bookmarks.DecodeList(header.Get(rpcheader.Bookmark), rpcheader.MaxBookmarks)
	if err != nil {
		return bookmarkError(err)
	}
	for _, b := range all {
		if b.DatabaseID == db.ID() {
			if err := reached(b, h); err != nil {
				return err
			}
		}
	}
	return nil
}

func reached(b bookmark.Bookmark, h changelog.Head) error {
	if b.Epoch > h.Epoch || b.Epoch == h.Epoch && b.Version > h.Version {
		return rpcerr.New(datav1.ErrorReason_ERROR_REASON_BOOKMARK_AHEAD,
			"the bookmark names version %d, the primary has %d", b.Version, h.Version).
			With("version", strconv.FormatUint(b.Version, 10)).
			With("present_version", strconv.FormatUint(h.Version, 10))
	}
	return nil
}

func bookmarkError(err error) error {
	if errors.Is(err, bookmark.ErrForged) {
		return rpcerr.New(datav1.ErrorReason_ERROR_REASON_BOOKMARK_FORGED, "the bookmark was not made by this mesh")
	}
	return rpcerr.New(datav1.ErrorReason_ERROR_REASON_BOOKMARK_MALFORMED, "not a bookmark: %w", err)
}

// query runs a statement in a view.
func (s *Service) query(
	ctx context.Context, db *registry.Database, v *engine.View, st *datav1.Statement,
) (*datav1.ResultSet, *datav1.Answer, error) {
	c := sqlrun.Collector{Meter: budget.NewMeter(ctx)}
	stats, err := v.Query(st, &c)
	if err != nil {
		return nil, nil, err
	}
	return &c.Result, s.readAnswer(db, v, stats), nil
}

func (s *Service) readAnswer(db *registry.Database, v *engine.View, stats engine.QueryStats) *datav1.Answer {
	a := s.answer(db.ID(), v.Head())
	a.SqlMs, a.RowsRead = milliseconds(stats.Elapsed), stats.RowsRead
	return a
}

// view calls f with a view that is as fresh as the caller wants.
func (s *Service) view(
	ctx context.Context, database string, c *datav1.Consistency, h http.Header,
	f func(*registry.Database, *engine.View) error,
) error {
	db, err := s.registry.Database(database)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, sqlrun.StatementTimeout)
	defer cancel()
	return db.View(ctx, func(v *engine.View) error {
		if err := s.checkFresh(db, v.Head(), c, h); err != nil {
			return err
		}
		return f(db, v)
	})
}

// Query implements DataService.
func (s *Service) Query(
	ctx context.Context, req *connect.Request[datav1.QueryRequest],
) (*connect.Response[datav1.QueryResponse], error) {
	msg := &datav1.QueryResponse{}
	err := s.view(ctx, req.Msg.GetDatabase(), req.Msg.GetConsistency(), req.Header(),
		func(db *registry.Database, v *engine.View) (err error) {
			msg.Result, msg.Answer, err = s.query(ctx, db, v, req.Msg.GetStatement())
			return err
		})
	if err != nil {
		return nil, err
	}
	return respond(msg, msg.Answer), nil
}

// QueryStream implements DataService.
func (s *Service) QueryStream(
	ctx context.Context, req *connect.Request[datav1.QueryStreamRequest],
	stream *connect.ServerStream[datav1.QueryStreamResponse],
) error {
	db, err := s.registry.Database(req.Msg.GetDatabase())
	if err != nil {
		return err
	}
	sink, ctx, stop := sqlrun.NewStreamer(ctx, stream)
	defer stop()
	return db.ViewStream(ctx, func(v *engine.View) error {
		if err := s.checkFresh(db, v.Head(), req.Msg.GetConsistency(), req.Header()); err != nil {
			return err
		}
		sink.First = s.answer(db.ID(), v.Head())
		rpcheader.SetAnswer(stream.ResponseHeader(), sink.First)
		stats, err := v.Query(req.Msg.GetStatement(), sink)
		if err != nil {
			return err
		}
		return sink.Flush(s.readAnswer(db, v, stats))
	})
}
