package readpath

import (
	"context"
	"errors"
	"math"
	"net/http"

	"google.golang.org/protobuf/types/known/timestamppb"

	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/internal/keyread"
	"github.com/nearside-dev/nearside/internal/rpcerr"
	"github.com/nearside-dev/nearside/sidecar/memory"
	"github.com/nearside-dev/nearside/sidecar/replica"
	"github.com/nearside-dev/nearside/sidecar/stamp"
)

// forever is a moment at which any entry of no database is asked for: nothing of it is ever published.
const forever = stamp.Stamp(math.MaxUint64)

// GetValue answers CacheService's Get from the region's memory. Errors are those of bookmarks, and DATABASE_NOT_FOUND.
func (p *Path) GetValue(
	ctx context.Context, h http.Header, req *datav1.CacheServiceGetRequest,
) (*datav1.CacheServiceGetResponse, error) {
	res := &datav1.CacheServiceGetResponse{Answer: p.valueAnswer()}
	var v memory.Value
	if req.GetDatabase() == "" {
		v, res.Found = p.memory.cache.Value(forever, memory.NoDatabase, req.GetKey())
	} else {
		read, err := p.valueRead(ctx, h, req.GetDatabase(), req.GetConsistency())
		if err != nil || read.Database == nil || read.Freshness.Level == datav1.Consistency_LEVEL_PRIMARY {
			return res, err
		}
		if err := p.await(ctx, read); err != nil {
			return nil, err
		}
		m, ok := p.memory.moment(read)
		if !ok {
			return res, nil
		}
		res.Answer = p.memory.answer(m)
		v, res.Found = p.memory.cache.Value(m.Stamp(), read.Database.id, req.GetKey())
	}
	res.Value = v.Bytes
	if !v.Expires.IsZero() {
		res.ExpireTime = timestamppb.New(v.Expires)
	}
	return res, nil
}

func (p *Path) valueAnswer() *datav1.Answer {
	return &datav1.Answer{Region: p.memory.region, Source: datav1.Source_SOURCE_MEMORY}
}

// valueRead finds the database of a value. Its Database is nil where the region knows no databases yet.
func (p *Path) valueRead(ctx context.Context, h http.Header, name string, c *datav1.Consistency) (*Read, error) {
	read, err := p.read(ctx, h, name, c)
	if err != nil {
		return nil, err
	}
	if read.Database == nil && p.codec() != nil {
		return nil, rpcerr.New(datav1.ErrorReason_ERROR_REASON_DATABASE_NOT_FOUND, "no such database in this region: %s", name).
			With("database", name)
	}
	return &read, nil
}

// await waits for the copy to reach what a read asks for, as long as the read allows. Whether it has is for the caller to see.
func (p *Path) await(ctx context.Context, read *Read) error {
	d, ok := p.store.Database(read.Database.id)
	if !ok || read.Freshness.Level != datav1.Consistency_LEVEL_AT_LEAST {
		return nil
	}
	_, err := p.metrics.waitFor(ctx, d, read.Freshness.Bookmark, read.Freshness.MaxWait)
	return err
}

// SetValue answers CacheService's Set. Errors are those of bookmarks, DATABASE_NOT_FOUND, TABLE_NOT_FOUND and FIELD_INVALID.
func (p *Path) SetValue(
	ctx context.Context, h http.Header, req *datav1.CacheServiceSetRequest,
) (*datav1.CacheServiceSetResponse, error) {
	res := &datav1.CacheServiceSetResponse{Answer: p.valueAnswer()}
	v := memory.NewValue{Key: req.GetKey(), Bytes: req.GetValue(), TTL: req.GetTtl().AsDuration(), Tags: req.GetTags()}
	cache := p.memory.cache
	if req.GetDatabase() == "" {
		if len(req.GetTables()) > 0 {
			return nil, rpcerr.InvalidField("tables", "need a database")
		}
		if req.GetBookmark() != "" {
			return nil, rpcerr.InvalidField("bookmark", "needs a database")
		}
		cache.ForgetValue(memory.NoDatabase, v.Key)
		last := p.store.Stamps().Last()
		res.Kept = cache.SetValue(stamp.Reading{At: last, Until: last}, memory.NoDatabase, v)
		return res, nil
	}
	read, err := p.valueRead(ctx, h, req.GetDatabase(), &datav1.Consistency{Bookmark: req.GetBookmark()})
	if err != nil || read.Database == nil {
		return res, err
	}
	id := read.Database.id
	cache.ForgetValue(id, v.Key) // before the reading: whatever becomes of the new value, the old one is gone
	if req.GetBookmark() != "" {
		if err := p.await(ctx, read); err != nil {
			return nil, err
		}
	}
	reading, err := p.readTables(read, req, &v)
	if err != nil {
		return nil, err
	}
	res.Kept = cache.SetValue(reading, id, v)
	return res, nil
}

// readTables finds the tables of a value and returns when its state was read: zero if the region cannot tell, or has not exactly
// the state that the value was made from.
func (p *Path) readTables(read *Read, req *datav1.CacheServiceSetRequest, v *memory.NewValue) (r stamp.Reading, err error) {
	snap, ok := p.snapshot(read.Database.id)
	if !ok {
		return r, nil
	}
	defer func() { err = errors.Join(err, snap.Close()) }()
	for _, name := range req.GetTables() {
		t, err := keyread.Table(snap.Catalog(), name)
		if err != nil && snap.Catalog().IsPartial() {
			return stamp.Reading{}, nil // it may be one that the region may not hold, and so nothing that was made of it
		}
		if err != nil {
			return r, err
		}
		if snap.TableProblem(t) != nil {
			return r, nil // nothing is kept of it until it is repaired
		}
		v.Tables = append(v.Tables, t.ID)
	}
	if b := read.Freshness.Bookmark; req.GetBookmark() != "" && (b.Epoch != snap.Epoch() || b.Version != snap.Version()) {
		return r, nil
	}
	return snap.Reading(), nil
}

func (p *Path) snapshot(database uint32) (*replica.Snapshot, bool) {
	d, ok := p.store.Database(database)
	if !ok {
		return nil, false
	}
	snap, err := d.Snapshot()
	return snap, err == nil
}

// Invalidate answers CacheService's Invalidate. Errors are DATABASE_NOT_FOUND, TABLE_NOT_FOUND, NOT_READY where the region
// cannot tell which table it is, and FIELD_INVALID.
func (p *Path) Invalidate(
	ctx context.Context, h http.Header, req *datav1.CacheServiceInvalidateRequest,
) (*datav1.CacheServiceInvalidateResponse, error) {
	id := memory.NoDatabase
	if req.GetDatabase() != "" {
		read, err := p.valueRead(ctx, h, req.GetDatabase(), nil)
		if err != nil {
			return nil, err
		}
		if read.Database == nil {
			return nil, rpcerr.New(datav1.ErrorReason_ERROR_REASON_NOT_READY, "the region knows no databases yet")
		}
		id = read.Database.id
	}
	cache := p.memory.cache
	switch target := req.GetTarget().(type) {
	case *datav1.CacheServiceInvalidateRequest_Key:
		cache.ForgetValue(id, target.Key)
	case *datav1.CacheServiceInvalidateRequest_Tag:
		cache.ForgetTag(id, target.Tag)
	case *datav1.CacheServiceInvalidateRequest_Table:
		if err := p.forgetTable(id, target.Table); err != nil {
			return nil, err
		}
	case *datav1.CacheServiceInvalidateRequest_Everything:
		cache.ForgetDatabase(id)
	default:
		return nil, rpcerr.InvalidField("target", "is required")
	}
	return &datav1.CacheServiceInvalidateResponse{Answer: p.valueAnswer()}, nil
}

func (p *Path) forgetTable(id uint32, name string) (err error) {
	if id == memory.NoDatabase {
		return rpcerr.InvalidField("table", "needs a database")
	}
	snap, ok := p.snapshot(id)
	if !ok {
		return rpcerr.New(datav1.ErrorReason_ERROR_REASON_NOT_READY, "the region has no copy of the database that it serves")
	}
	defer func() { err = errors.Join(err, snap.Close()) }()
	t, err := keyread.Table(snap.Catalog(), name)
	if err != nil {
		return err
	}
	p.memory.cache.ForgetTable(id, t.ID)
	return nil
}

// MemoryStats answers CacheService's Stats. The error is DATABASE_NOT_FOUND.
func (p *Path) MemoryStats(
	ctx context.Context, h http.Header, req *datav1.CacheServiceStatsRequest,
) (*datav1.CacheServiceStatsResponse, error) {
	cache := p.memory.cache
	limit, share := cache.Limits()
	res := &datav1.CacheServiceStatsResponse{
		LimitBytes: uint64(limit), DatabaseLimitBytes: uint64(share), Answer: p.valueAnswer(),
	}
	if req.GetDatabase() != "" {
		read, err := p.valueRead(ctx, h, req.GetDatabase(), nil)
		if err != nil {
			return nil, err
		}
		if read.Database != nil {
			res.DatabaseBytes = uint64(max(0, cache.DatabaseBytes(read.Database.id)))
		}
	}
	for _, kind := range memory.Kinds() {
		s := cache.Stats(kind)
		res.Kinds = append(res.Kinds, &datav1.CacheServiceStatsResponse_Kind{
			Name: kind.String(), Hits: s.Hits, Misses: s.Misses, Old: s.Old, Refused: s.Refused, Evictions: s.Evictions,
			Bytes: uint64(max(0, s.Bytes)),
		})
	}
	return res, nil
}
