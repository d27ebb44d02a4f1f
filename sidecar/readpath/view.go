package readpath

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/internal/bookmark"
	"github.com/nearside-dev/nearside/internal/catalog"
	"github.com/nearside-dev/nearside/internal/keyread"
	"github.com/nearside-dev/nearside/internal/policy"
	"github.com/nearside-dev/nearside/internal/rowcodec"
	"github.com/nearside-dev/nearside/sidecar/replica"
)

// checkEvery is how many rows of a page are read between looks at whether the caller is still there.
const checkEvery = 256

// errFeature marks a table of which the rows here lack something.
var errFeature = errors.New("table has virtual columns")

// view is one version of one database, for one request.
type view struct {
	reader    *replicaReader
	codec     *bookmark.Codec
	database  *Database
	snap      *replica.Snapshot
	begin     time.Time
	staleness time.Duration

	provenance *provenance    // to be filled in; nil if nobody asks
	filter     *policy.Filter // which rows of the table that is read the caller may see; nil is all

	key []byte       // scratch
	row rowcodec.Row // the row that was read last
}

// use calls f and closes the view.
func (v *view) use(f func(*view) error) (err error) {
	defer func() { err = errors.Join(err, v.snap.Close()) }()
	return f(v)
}

func (v *view) answer(rowsRead int) *datav1.Answer {
	return &datav1.Answer{
		Bookmark:    v.database.bookmark(v.codec, v.snap.Epoch(), v.snap.Version()),
		Region:      v.reader.region,
		Source:      datav1.Source_SOURCE_REPLICA,
		StalenessMs: Milliseconds(v.staleness),
		SqlMs:       float64(time.Since(v.begin).Microseconds()) / 1000,
		RowsRead:    uint64(rowsRead),
	}
}

// Milliseconds is a staleness as answers have it: it rounds up, and ends where a uint32 does.
func Milliseconds(d time.Duration) uint32 {
	const ms = time.Millisecond
	return uint32(min(d/ms+min(d%ms, 1), math.MaxUint32))
}

func (v *view) shape(t *catalog.Table) (*keyread.Shape, error) {
	if t.HasVirtualColumns() {
		return nil, errFeature
	}
	if err := v.snap.TableProblem(t); err != nil {
		return nil, err
	}
	return v.database.shape(v.snap.Catalog(), t), nil
}

func (v *view) get(req *datav1.GetRequest) (*datav1.GetResponse, error) {
	plan, err := keyread.PlanGet(v.snap.Catalog(), req.GetTable(), req.GetKey())
	if err != nil {
		return nil, err
	}
	shape, err := v.shape(plan.Table)
	if err != nil {
		return nil, err
	}
	res := &datav1.GetResponse{Columns: shape.Columns}
	version, ok, err := v.find(plan)
	if err != nil {
		return nil, err
	}
	ok = ok && v.filter.Of(plan.Table).Has(v.row.Values)
	rows := 0
	if ok {
		rows = 1
		res.Row = shape.Row(v.row, version)
	}
	res.Answer = v.answer(rows)
	return res, nil
}

func (v *view) batchGet(ctx context.Context, req *datav1.BatchGetRequest) (*datav1.BatchGetResponse, error) {
	plans, err := keyread.PlanBatchGet(v.snap.Catalog(), req.GetTable(), req.GetKeys())
	if err != nil {
		return nil, err
	}
	shape, err := v.shape(plans[0].Table)
	if err != nil {
		return nil, err
	}
	batch := keyread.NewBatch(ctx, shape, len(plans))
	rows, visible := 0, v.filter.Of(plans[0].Table)
	for i := range plans {
		version, ok, err := v.find(&plans[i])
		if err != nil {
			return nil, err
		}
		if !ok || !visible.Has(v.row.Values) {
			batch.AddMissing()
			continue
		}
		rows++
		if err := batch.Add(v.row, version); err != nil {
			return nil, err
		}
	}
	res := batch.Response()
	res.Answer = v.answer(rows)
	return res, nil
}

// find reads a plan's row into v.row; ok is false where there is none.
func (v *view) find(plan *keyread.GetPlan) (version uint64, ok bool, err error) {
	if plan.Never {
		v.dependsOnTable(plan.Table)
		return 0, false, nil
	}
	v.key = plan.AppendKey(v.key[:0])
	if plan.Index == nil {
		v.dependsOnRow(plan.Table, v.key)
		return v.load(plan.Table, v.key)
	}
	rowKey, ok, err := v.snap.GetUnique(plan.Table, plan.Index, v.key)
	if err != nil {
		return 0, false, err
	}
	if !ok { // any new row may have this key
		v.dependsOnTable(plan.Table)
		return 0, false, nil
	}
	v.dependsOnRow(plan.Table, rowKey) // another row can have this key only once that one has lost it
	return v.loadIndexed(plan.Table, plan.Index, rowKey)
}

// load reads the row with an encoded key into v.row.
func (v *view) load(t *catalog.Table, key []byte) (version uint64, ok bool, err error) {
	stored, version, ok, err := v.snap.GetRow(t, key)
	if err != nil || !ok {
		return 0, false, err
	}
	if err := rowcodec.DecodeRowInto(&v.row, t, key, stored); err != nil {
		return 0, false, v.snap.Diverged(t, err)
	}
	return version, true, nil
}

// loadIndexed is load of a row that an index entry stands for.
func (v *view) loadIndexed(t *catalog.Table, ix *catalog.Index, key []byte) (version uint64, ok bool, err error) {
	version, ok, err = v.load(t, key)
	if err == nil && !ok {
		err = v.snap.Diverged(t, fmt.Errorf("index %s has an entry without a row", ix.Name))
	}
	return version, ok, err
}

func (v *view) list(ctx context.Context, req *datav1.ListRequest) (*datav1.ListResponse, error) {
	plan, err := keyread.PlanList(v.snap.Catalog(), req)
	if err != nil {
		return nil, err
	}
	shape, err := v.shape(plan.Table)
	if err != nil {
		return nil, err
	}
	v.dependsOnTable(plan.Table)
	page := keyread.NewPage(plan, shape)
	var rows int
	if plan.Index == nil {
		rows, err = v.scanRows(ctx, plan, page)
	} else {
		rows, err = v.scanIndex(ctx, plan, page)
	}
	if err != nil {
		return nil, err
	}
	res, err := page.Response()
	if err != nil {
		return nil, err
	}
	res.Answer = v.answer(rows)
	return res, nil
}

// scanRows fills a page from the rows and returns how many it looked at.
func (v *view) scanRows(ctx context.Context, plan *keyread.ListPlan, page *keyread.Page) (rows int, err error) {
	lower, upper := plan.Bounds()
	it, err := v.snap.NewRowIter(plan.Table, lower, upper, plan.Reverse)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, it.Close()) }()
	visible := v.filter.Of(plan.Table)
	for passed := 1; it.Next(); passed++ {
		if passed%checkEvery == 0 && ctx.Err() != nil {
			return rows, ctx.Err()
		}
		stored, version, err := it.Value()
		if err != nil {
			return rows, err
		}
		if err := rowcodec.DecodeRowInto(&v.row, plan.Table, it.Key(), stored); err != nil {
			return rows, v.snap.Diverged(plan.Table, err)
		}
		if !visible.Has(v.row.Values) {
			continue
		}
		if rows++; !page.Add(v.row, version) {
			return rows, nil
		}
	}
	return rows, it.Err()
}

// scanIndex fills a page from the rows of an index's entries and returns how many it looked at.
func (v *view) scanIndex(ctx context.Context, plan *keyread.ListPlan, page *keyread.Page) (rows int, err error) {
	lower, upper := plan.Bounds()
	it, err := v.snap.NewIndexIter(plan.Table, plan.Index, lower, upper, plan.Reverse)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, it.Close()) }()
	visible := v.filter.Of(plan.Table)
	for passed := 1; it.Next(); passed++ {
		if passed%checkEvery == 0 && ctx.Err() != nil {
			return rows, ctx.Err()
		}
		rowKey, err := it.RowKey()
		if err != nil {
			return rows, v.snap.Diverged(plan.Table, err)
		}
		version, _, err := v.loadIndexed(plan.Table, plan.Index, rowKey)
		if err != nil {
			return rows, err
		}
		if !visible.Has(v.row.Values) {
			continue
		}
		if rows++; !page.Add(v.row, version) {
			return rows, nil
		}
	}
	return rows, it.Err()
}
