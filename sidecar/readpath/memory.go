package readpath

import (
	"context"
	"time"

	"google.golang.org/protobuf/proto"

	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/internal/bookmark"
	"github.com/nearside-dev/nearside/internal/budget"
	"github.com/nearside-dev/nearside/internal/keyread"
	"github.com/nearside-dev/nearside/sidecar/memory"
	"github.com/nearside-dev/nearside/sidecar/replica"
	"github.com/nearside-dev/nearside/sidecar/stamp"
)

// memoryReader answers from memory what is there and still holds, and keeps what the replica answers. A nil cache keeps nothing.
type memoryReader struct {
	next   Reader
	cache  *memory.Cache
	store  *replica.Store
	codec  func() *bookmark.Codec
	region string

	rows  flights[memory.Row]
	pages flights[memory.Page]
}

var _ Reader = (*memoryReader)(nil)

// moment is a state of a database for which an answer from memory is asked.
type moment struct {
	replica.Moment

	database  *Database
	codec     *bookmark.Codec
	staleness time.Duration
}

// moment returns the present state of a read's database, if that is as fresh as the read asks for.
func (r *memoryReader) moment(read *Read) (m moment, ok bool) {
	f := &read.Freshness
	d, ok := r.store.Database(read.Database.id)
	if !ok {
		return m, false
	}
	m.database = read.Database
	m.staleness = d.Staleness(time.Now()) // before the moment, which can only be newer
	if f.Level == datav1.Consistency_LEVEL_MAX_STALENESS && m.staleness > f.MaxStaleness {
		return m, false
	}
	if m.Moment, ok = d.Moment(); !ok {
		return m, false
	}
	if f.Level == datav1.Consistency_LEVEL_AT_LEAST {
		if reached, err := m.Reaches(f.Bookmark.Epoch, f.Bookmark.Version); err != nil || !reached {
			return m, false // the next one waits for it, or says what is wrong with it
		}
	}
	m.codec = r.codec()
	return m, m.codec != nil
}

func (r *memoryReader) answer(m moment) *datav1.Answer {
	return &datav1.Answer{
		Bookmark: m.database.bookmark(m.codec, m.Epoch(), m.Version()), Region: r.region,
		Source: datav1.Source_SOURCE_MEMORY, StalenessMs: Milliseconds(m.staleness),
	}
}

// skips reports whether memory has nothing to do with a read.
func (r *memoryReader) skips(read *Read) bool {
	return r.cache == nil || read.rows != nil || read.Database == nil || read.Freshness.Level == datav1.Consistency_LEVEL_PRIMARY
}

// Get implements Reader.
func (r *memoryReader) Get(ctx context.Context, read *Read, req *datav1.GetRequest) (*datav1.GetResponse, error) {
	if r.skips(read) {
		return r.next.Get(ctx, read, req)
	}
	key, err := memory.EncodeKey(req.GetKey())
	if err != nil {
		return r.next.Get(ctx, read, req)
	}
	id := read.Database.id
	m, ok := r.moment(read)
	if !ok {
		res, _, _, err := r.getBelow(ctx, read, req, key, nil)
		return res, err
	}
	if row, ok := r.cache.LookupKey(m.Stamp(), id, req.GetTable(), key); ok {
		return r.respond(m, row)
	}
	name := memory.RowKey(id, req.GetTable(), key)
	fl, leads := r.rows.join(name)
	if leads {
		defer r.rows.land(name, fl, memory.Row{}, false)
		res, row, kept, err := r.getBelow(ctx, read, req, key, func() { r.rows.land(name, fl, memory.Row{}, false) })
		r.rows.land(name, fl, row, kept)
		return res, err
	}
	row, kept, err := fl.wait(ctx)
	if err != nil {
		return nil, err
	}
	if m, ok = r.moment(read); ok && kept && r.cache.Holds(row, m.Stamp()) {
		return r.respond(m, row)
	}
	res, _, _, err := r.getBelow(ctx, read, req, key, nil)
	return res, err
}

// getBelow asks the next reader and keeps its answer, if it is the replica's.
func (r *memoryReader) getBelow(
	ctx context.Context, read *Read, req *datav1.GetRequest, key []byte, passed func(),
) (res *datav1.GetResponse, row memory.Row, kept bool, err error) {
	p := &provenance{passed: passed}
	if res, err = r.next.Get(ctx, read.from(p), req); err != nil || !p.answered {
		return res, row, false, err
	}
	row, kept = r.cache.KeepRow(p.reading, p.slots[0], read.Database.id, req.GetTable(), key, res.GetColumns(), res.GetRow())
	return res, row, kept, nil
}

func (r *memoryReader) respond(m moment, row memory.Row) (*datav1.GetResponse, error) {
	decoded, err := row.Decode()
	if err != nil {
		return nil, err
	}
	return &datav1.GetResponse{Columns: row.Columns(), Row: decoded, Answer: r.answer(m)}, nil
}

// List implements Reader.
func (r *memoryReader) List(ctx context.Context, read *Read, req *datav1.ListRequest) (*datav1.ListResponse, error) {
	if r.skips(read) {
		return r.next.List(ctx, read, req)
	}
	key, err := memory.EncodePage(req)
	if err != nil {
		return r.next.List(ctx, read, req)
	}
	id := read.Database.id
	m, ok := r.moment(read)
	if !ok {
		res, _, _, err := r.listBelow(ctx, read, req, key, nil)
		return res, err
	}
	if page, ok := r.cache.LookupPage(m.Stamp(), id, key); ok {
		return r.respondPage(m, page)
	}
	name := memory.PageKey(id, key)
	fl, leads := r.pages.join(name)
	if leads {
		defer r.pages.land(name, fl, memory.Page{}, false)
		res, page, kept, err := r.listBelow(ctx, read, req, key, func() { r.pages.land(name, fl, memory.Page{}, false) })
		r.pages.land(name, fl, page, kept)
		return res, err
	}
	page, kept, err := fl.wait(ctx)
	if err != nil {
		return nil, err
	}
	if m, ok = r.moment(read); ok && kept && r.cache.HoldsPage(page, m.Stamp()) {
		return r.respondPage(m, page)
	}
	res, _, _, err := r.listBelow(ctx, read, req, key, nil)
	return res, err
}

func (r *memoryReader) listBelow(
	ctx context.Context, read *Read, req *datav1.ListRequest, key []byte, passed func(),
) (res *datav1.ListResponse, page memory.Page, kept bool, err error) {
	p := &provenance{passed: passed}
	if res, err = r.next.List(ctx, read.from(p), req); err != nil || !p.answered {
		return res, page, false, err
	}
	page, kept = r.cache.KeepPage(p.reading, p.slots[0], read.Database.id, key, res)
	return res, page, kept, nil
}

func (r *memoryReader) respondPage(m moment, page memory.Page) (*datav1.ListResponse, error) {
	res, err := page.Decode()
	if err != nil {
		return nil, err
	}
	res.Answer = r.answer(m)
	return res, nil
}

// BatchGet implements Reader. Where memory has some of the rows only the others are read, of one version; what memory has must
// hold at that version too, else all are read.
func (r *memoryReader) BatchGet(
	ctx context.Context, read *Read, req *datav1.BatchGetRequest,
) (*datav1.BatchGetResponse, error) {
	if r.skips(read) {
		return r.next.BatchGet(ctx, read, req)
	}
	b := batch{reader: r, read: read, req: req}
	if err := b.encodeKeys(); err != nil {
		return r.next.BatchGet(ctx, read, req)
	}
	m, ok := r.moment(read)
	if !ok || len(b.keys) == 0 {
		return b.below(ctx)
	}
	b.lookup(m.Stamp())
	meter := budget.NewMeter(ctx)
	if err := meter.Add(b.size()); err != nil {
		return nil, err
	}
	if b.size() > keyread.MaxResponseBytes || len(b.misses) == len(b.keys) {
		return b.below(ctx)
	}
	if len(b.misses) == 0 {
		return b.respond(m)
	}
	if res := b.complete(ctx); res != nil {
		return res, nil
	}
	return b.below(ctx)
}

// batch is one BatchGet.
type batch struct {
	reader *memoryReader
	read   *Read
	req    *datav1.BatchGetRequest

	keys   [][]byte
	rows   []memory.Row // of the keys that are not in misses
	misses []int
}

func (b *batch) encodeKeys() (err error) {
	b.keys = make([][]byte, len(b.req.GetKeys()))
	for i, key := range b.req.GetKeys() {
		if b.keys[i], err = memory.EncodeKey(key); err != nil {
			return err
		}
	}
	return nil
}

func (b *batch) lookup(now stamp.Stamp) {
	b.rows = make([]memory.Row, len(b.keys))
	for i, key := range b.keys {
		var ok bool
		if b.rows[i], ok = b.reader.cache.LookupKey(now, b.read.Database.id, b.req.GetTable(), key); !ok {
			b.misses = append(b.misses, i)
		}
	}
}

// respond answers from memory alone.
func (b *batch) respond(m moment) (*datav1.BatchGetResponse, error) {
	res := &datav1.BatchGetResponse{
		Columns: b.rows[0].Columns(), Results: make([]*datav1.BatchGetResponse_Result, len(b.rows)), Answer: b.reader.answer(m),
	}
	return res, b.decode(res.Results)
}

func (b *batch) size() (n int) {
	for i := range b.rows {
		n += b.rows[i].Size()
	}
	return n
}

// decode puts the rows in memory into their places.
func (b *batch) decode(results []*datav1.BatchGetResponse_Result) error {
	for i, row := range b.rows {
		if results[i] != nil {
			continue
		}
		decoded, err := row.Decode()
		if err != nil {
			return err
		}
		results[i] = &datav1.BatchGetResponse_Result{Row: decoded}
	}
	return nil
}

// complete reads the rows that memory has not. It returns nil where the batch has to be read whole.
func (b *batch) complete(ctx context.Context) *datav1.BatchGetResponse {
	req := &datav1.BatchGetRequest{
		Database: b.req.GetDatabase(), Table: b.req.GetTable(), Consistency: b.req.GetConsistency(),
		Keys: make([]*datav1.Key, len(b.misses)),
	}
	for i, place := range b.misses {
		req.Keys[i] = b.req.GetKeys()[place]
	}
	p := &provenance{}
	read, err := b.reader.next.BatchGet(ctx, b.read.from(p), req)
	if err != nil || !p.answered {
		return nil // an error names keys by their places in what was asked
	}
	res := &datav1.BatchGetResponse{
		Columns: read.GetColumns(), Results: make([]*datav1.BatchGetResponse_Result, len(b.keys)), Answer: read.GetAnswer(),
	}
	size := b.size()
	for i, place := range b.misses {
		res.Results[place] = read.GetResults()[i]
		size += proto.Size(read.GetResults()[i])
	}
	for i, row := range b.rows {
		if res.Results[i] == nil && !b.reader.cache.Holds(row, p.floor) {
			return nil
		}
	}
	if size > keyread.MaxResponseBytes || b.decode(res.Results) != nil {
		return nil
	}
	for i, place := range b.misses {
		b.keep(p, i, place, res.GetColumns(), res.GetResults()[place].GetRow())
	}
	return res
}

// below reads all rows, and keeps them.
func (b *batch) below(ctx context.Context) (*datav1.BatchGetResponse, error) {
	p := &provenance{}
	res, err := b.reader.next.BatchGet(ctx, b.read.from(p), b.req)
	if err != nil || !p.answered {
		return res, err
	}
	for i, result := range res.GetResults() {
		b.keep(p, i, i, res.GetColumns(), result.GetRow())
	}
	return res, nil
}

// keep keeps the row of a key. place is the key's in the request, i in what was asked below.
func (b *batch) keep(p *provenance, i, place int, columns []*datav1.Column, row *datav1.Row) {
	b.reader.cache.KeepRow(p.reading, p.slots[i], b.read.Database.id, b.req.GetTable(), b.keys[place], columns, row)
}
