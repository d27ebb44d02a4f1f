package readpath

import (
	"context"
	"errors"
	"log/slog"
	"time"

	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/internal/bookmark"
	"github.com/nearside-dev/nearside/internal/rpcerr"
	"github.com/nearside-dev/nearside/sidecar/edgesql"
	"github.com/nearside-dev/nearside/sidecar/replica"
)

// replicaReader answers from the region's copy what the copy can answer exactly, and passes on the rest.
type replicaReader struct {
	next    Reader
	store   *replica.Store
	codec   func() *bookmark.Codec
	region  string
	logger  *slog.Logger
	metrics *metrics
}

var _ Reader = (*replicaReader)(nil)

// Get implements Reader.
func (r *replicaReader) Get(ctx context.Context, read *Read, req *datav1.GetRequest) (res *datav1.GetResponse, err error) {
	done, err := r.answer(ctx, read, func(v *view) (err error) {
		res, err = v.get(req)
		return err
	})
	if done || err != nil {
		return res, err
	}
	return r.next.Get(ctx, read, req)
}

// BatchGet implements Reader.
func (r *replicaReader) BatchGet(
	ctx context.Context, read *Read, req *datav1.BatchGetRequest,
) (res *datav1.BatchGetResponse, err error) {
	done, err := r.answer(ctx, read, func(v *view) (err error) {
		res, err = v.batchGet(ctx, req)
		return err
	})
	if done || err != nil {
		return res, err
	}
	return r.next.BatchGet(ctx, read, req)
}

// List implements Reader.
func (r *replicaReader) List(ctx context.Context, read *Read, req *datav1.ListRequest) (res *datav1.ListResponse, err error) {
	done, err := r.answer(ctx, read, func(v *view) (err error) {
		res, err = v.list(ctx, req)
		return err
	})
	if done || err != nil {
		return res, err
	}
	return r.next.List(ctx, read, req)
}

// answer opens a view that is fresh enough and calls f with it. It reports false, and no error, where the primary has to
// answer; an error is the caller's.
func (r *replicaReader) answer(ctx context.Context, read *Read, f func(*view) error) (done bool, err error) {
	v, why, err := r.open(ctx, read)
	if err != nil {
		return false, err
	}
	if why == "" {
		partial := v.snap.Catalog().IsPartial()
		err = v.use(f)
		why = whyPassed(err)
		if partial && why == whyUnknown {
			why = whyWithheld
		}
		if why == "" {
			read.provenance.isReplica(err == nil)
			return err == nil, err
		}
		if why == whyFailed {
			r.logger.WarnContext(ctx, "replica not read, asking the primary",
				slog.String("database", read.Database.name), slog.Any("error", err))
		}
	}
	r.metrics.passed.WithLabelValues(why).Inc()
	read.passed = why
	if u, ok := errors.AsType[*edgesql.UnsupportedError](err); ok {
		read.passed = string(u.Reason)
	}
	read.provenance.isReplica(false)
	return false, nil
}

// whyPassed returns why a read that ended in err is for the primary, or "" if it is not.
func whyPassed(err error) string {
	if err == nil {
		return ""
	}
	if errors.Is(err, errFeature) {
		return whyFeature
	}
	if u, ok := errors.AsType[*edgesql.UnsupportedError](err); ok {
		switch u.Reason {
		case edgesql.ReasonFailed:
			return whyFailed
		case edgesql.ReasonDiverged:
			return whyNotReady
		default:
			return whySQL
		}
	}
	if errors.Is(err, replica.ErrDiverged) {
		return whyNotReady // the follower has logged it, and copies the table anew
	}
	if e, ok := errors.AsType[*rpcerr.Error](err); ok {
		switch e.Reason() {
		case datav1.ErrorReason_ERROR_REASON_TABLE_NOT_FOUND, datav1.ErrorReason_ERROR_REASON_INDEX_NOT_FOUND:
			return whyUnknown
		default:
			return "" // what is wrong with the request is so at the primary too
		}
	}
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return ""
	}
	return whyFailed
}

// open returns a view that is as fresh as a read asks for, or why the primary has to answer.
func (r *replicaReader) open(ctx context.Context, read *Read) (v *view, why string, err error) {
	f := &read.Freshness
	if read.Database == nil {
		return nil, whyUnknown, nil
	}
	if f.Level == datav1.Consistency_LEVEL_PRIMARY {
		return nil, whyAsked, nil
	}
	d, ok := r.store.Database(read.Database.id)
	if !ok && !read.Database.placed {
		return nil, whyWithheld, nil
	}
	if !ok || d.Problem() != nil {
		return nil, whyNotReady, nil //nolint:nilerr // the primary answers then
	}
	if f.Level == datav1.Consistency_LEVEL_AT_LEAST {
		if ok, err := r.metrics.waitFor(ctx, d, f.Bookmark, f.MaxWait); err != nil {
			return nil, "", err
		} else if !ok {
			return nil, whyBehind, nil
		}
	}
	begin := time.Now()
	staleness := d.Staleness(begin) // before the snapshot, which can only be newer
	if f.Level == datav1.Consistency_LEVEL_MAX_STALENESS && staleness > f.MaxStaleness {
		return nil, whyStale, nil
	}
	codec := r.codec()
	if codec == nil {
		return nil, whyNotReady, nil
	}
	snap, err := d.Snapshot()
	if err != nil {
		return nil, whyNotReady, nil //nolint:nilerr // Problem says it to whoever asks
	}
	if f.Level == datav1.Consistency_LEVEL_AT_LEAST {
		// A copy that was begun anew meanwhile may have less than was waited for.
		if ok, err := snap.Reaches(f.Bookmark.Epoch, f.Bookmark.Version); !ok || err != nil {
			return nil, whyBehind, snap.Close()
		}
	}
	v = &view{
		reader: r, codec: codec, database: read.Database, snap: snap, begin: begin, staleness: staleness,
		provenance: read.provenance, filter: read.rows,
	}
	return v, "", nil
}
