// Package workload is the table and the requests of `nearside bench`.
package workload

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"connectrpc.com/connect"

	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/gen/nearside/data/v1/datav1connect"
	"github.com/nearside-dev/nearside/internal/loadgen"
)

// Kinds are the requests that there are.
var Kinds = []string{"get", "batch", "list", "query", "write"}

// As indexes of Kinds.
const (
	kindGet = iota
	kindBatch
	kindList
	kindQuery
	kindWrite
)

const (
	table      = "bench_rows"
	batchKeys  = 100
	listRows   = 100
	insertRows = 1000
	payload    = 100 // bytes of a row's text
)

// Mix says how many of a hundred requests are of each kind, in the order of Kinds.
type Mix [5]int

// DefaultMix is mostly reads of single rows.
var DefaultMix = Mix{90, 1, 2, 2, 5}

// ParseMix reads "get=95,write=5". Kinds that are not named are left out; the numbers sum to 100.
func ParseMix(text string) (m Mix, err error) {
	sum := 0
	seen := make(map[string]bool)
	for part := range strings.SplitSeq(text, ",") {
		name, number, ok := strings.Cut(strings.TrimSpace(part), "=")
		kind := slices.Index(Kinds, name)
		if !ok || kind < 0 || seen[name] {
			return m, fmt.Errorf("%q: want KIND=PERCENT once for some of %s", part, strings.Join(Kinds, ", "))
		}
		seen[name] = true
		if m[kind], err = strconv.Atoi(number); err != nil || m[kind] < 0 || m[kind] > 100 {
			return m, fmt.Errorf("%q: want 0 to 100", part)
		}
		sum += m[kind]
	}
	if sum != 100 {
		return m, fmt.Errorf("%q sums up to %d, want 100", text, sum)
	}
	return m, nil
}

// String writes a mix as ParseMix reads it.
func (m Mix) String() string {
	var parts []string
	for i, percent := range m {
		if percent > 0 {
			parts = append(parts, Kinds[i]+"="+strconv.Itoa(percent))
		}
	}
	return strings.Join(parts, ",")
}

// Workload is what is asked of a database.
type Workload struct {
	Database string
	Keys     int
	Mix      Mix
	// Zipf is the exponent of the keys' distribution, over 1; 0 is uniform. The popular keys are spread over the table.
	Zipf float64

	sources [4]atomic.Uint64 // of reads, by datav1.Source
}

// Prepare sees to it that the database and its table are there, with all keys.
func (w *Workload) Prepare(ctx context.Context, c datav1connect.DataServiceClient, progress func(done int)) error {
	if _, err := c.CreateDatabase(ctx, connect.NewRequest(&datav1.CreateDatabaseRequest{Name: w.Database, IfNotExists: true})); err != nil {
		return fmt.Errorf("create database %s: %w", w.Database, err)
	}
	present, err := w.execute(ctx, c, "CREATE TABLE IF NOT EXISTS "+table+" (id INTEGER PRIMARY KEY, n INTEGER NOT NULL, text TEXT NOT NULL)",
		"SELECT count(*) FROM "+table+" WHERE id < "+strconv.Itoa(w.Keys))
	if err != nil || present == int64(w.Keys) {
		return err
	}
	text, bookmark := strings.Repeat("x", payload), ""
	for from := 0; from < w.Keys; from += insertRows {
		req := &datav1.BatchInsertRequest{
			Database: w.Database, Table: table, Columns: []string{"id", "n", "text"},
			OnConflict: datav1.BatchInsertRequest_ON_CONFLICT_IGNORE,
		}
		for id := from; id < min(from+insertRows, w.Keys); id++ {
			req.Rows = append(req.Rows, &datav1.Row{Values: []*datav1.Value{integer(int64(id)), integer(0), textValue(text)}})
		}
		res, err := c.BatchInsert(ctx, connect.NewRequest(req))
		if err != nil {
			return fmt.Errorf("fill %s: %w", table, err)
		}
		bookmark = res.Msg.GetAnswer().GetBookmark()
		if progress != nil {
			progress(from + len(req.Rows))
		}
	}
	return w.await(ctx, c, bookmark)
}

// A region is asked awaitTries times for the rows that it was just given, awaitPause apart: what has no copy never has them itself.
const (
	awaitTries = 100
	awaitPause = 20 * time.Millisecond
)

// await returns when the region itself answers as fresh as a bookmark, so that no read after it misses a row. A primary's listener,
// and a region that may not hold the database, always answer from the primary: they are given up.
func (w *Workload) await(ctx context.Context, c datav1connect.DataServiceClient, bookmark string) error {
	for range awaitTries {
		res, err := c.Get(ctx, connect.NewRequest(&datav1.GetRequest{
			Database: w.Database, Table: table, Key: keyOf(0),
			Consistency: &datav1.Consistency{Level: datav1.Consistency_LEVEL_AT_LEAST, Bookmark: bookmark},
		}))
		if err != nil {
			return fmt.Errorf("read %s: %w", table, err)
		}
		if res.Msg.GetAnswer().GetSource() != datav1.Source_SOURCE_PRIMARY {
			return nil
		}
		select {
		case <-time.After(awaitPause):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// execute runs statements and returns the first value of the last one's answer.
func (w *Workload) execute(ctx context.Context, c datav1connect.DataServiceClient, statements ...string) (n int64, err error) {
	for _, sql := range statements {
		res, err := c.Execute(ctx, connect.NewRequest(&datav1.ExecuteRequest{
			Database: w.Database, Statement: &datav1.Statement{Sql: sql},
			Consistency: &datav1.Consistency{Level: datav1.Consistency_LEVEL_PRIMARY},
		}))
		if err != nil {
			return 0, fmt.Errorf("prepare database %s: %w", w.Database, err)
		}
		if rows := res.Msg.GetResult().GetRows(); len(rows) > 0 {
			n = rows[0].GetValues()[0].GetInteger()
		}
	}
	return n, nil
}

// Sources returns how many reads were answered from where, by the sources' names.
func (w *Workload) Sources() map[string]uint64 {
	found := make(map[string]uint64)
	for i := range w.sources {
		if n := w.sources[i].Load(); n > 0 {
			found[strings.TrimPrefix(datav1.Source(i).String(), "SOURCE_")] = n
		}
	}
	return found
}

// Forget sets the counts of Sources to zero.
func (w *Workload) Forget() {
	for i := range w.sources {
		w.sources[i].Store(0)
	}
}

// Task returns the requests of one connection. Each seed draws others.
func (w *Workload) Task(c datav1connect.DataServiceClient, seed uint64) loadgen.Task {
	random := rand.New(rand.NewPCG(seed, 0x9e3779b97f4a7c15))
	key := w.draw(random)
	return func(ctx context.Context) (int, error) {
		kind, at := 0, random.IntN(100)
		for at >= w.Mix[kind] {
			at -= w.Mix[kind]
			kind++
		}
		answer, err := w.request(ctx, c, kind, random, key)
		if source := int(answer.GetSource()); err == nil && kind != kindWrite && source < len(w.sources) {
			w.sources[source].Add(1)
		}
		return kind, err
	}
}

// draw returns a function that draws keys.
func (w *Workload) draw(random *rand.Rand) func() int64 {
	if w.Zipf == 0 {
		return func() int64 { return random.Int64N(int64(w.Keys)) }
	}
	ranks := rand.NewZipf(random, w.Zipf, 1, uint64(w.Keys-1))
	return func() int64 { return int64(ranks.Uint64() * 0x9e3779b1 % uint64(w.Keys)) }
}

var errNoRow = errors.New("a row that must be there is not")

func (w *Workload) request(
	ctx context.Context, c datav1connect.DataServiceClient, kind int, random *rand.Rand, key func() int64,
) (*datav1.Answer, error) {
	switch kind {
	case kindGet:
		res, err := c.Get(ctx, connect.NewRequest(&datav1.GetRequest{Database: w.Database, Table: table, Key: keyOf(key())}))
		if err != nil {
			return nil, err
		}
		if res.Msg.GetRow() == nil {
			return nil, errNoRow
		}
		return res.Msg.GetAnswer(), nil
	case kindBatch:
		req := &datav1.BatchGetRequest{Database: w.Database, Table: table}
		for range batchKeys {
			req.Keys = append(req.Keys, keyOf(key()))
		}
		res, err := c.BatchGet(ctx, connect.NewRequest(req))
		if err != nil {
			return nil, err
		}
		return res.Msg.GetAnswer(), nil
	case kindList:
		res, err := c.List(ctx, connect.NewRequest(&datav1.ListRequest{
			Database: w.Database, Table: table, PageSize: listRows,
			Start: &datav1.ListRequest_Bound{Values: []*datav1.Value{integer(key())}},
		}))
		if err != nil {
			return nil, err
		}
		return res.Msg.GetAnswer(), nil
	case kindQuery:
		res, err := c.Query(ctx, connect.NewRequest(&datav1.QueryRequest{
			Database: w.Database, Statement: statement("SELECT id, n, text FROM "+table+" WHERE id = ?", key()),
		}))
		if err != nil {
			return nil, err
		}
		return res.Msg.GetAnswer(), nil
	default:
		res, err := c.Execute(ctx, connect.NewRequest(&datav1.ExecuteRequest{
			Database: w.Database, Statement: statement("UPDATE "+table+" SET n = ? WHERE id = ?", random.Int64N(1<<30), key()),
		}))
		if err != nil {
			return nil, err
		}
		return res.Msg.GetAnswer(), nil
	}
}

func integer(i int64) *datav1.Value { return &datav1.Value{Kind: &datav1.Value_Integer{Integer: i}} }

func textValue(s string) *datav1.Value { return &datav1.Value{Kind: &datav1.Value_Text{Text: s}} }

func keyOf(id int64) *datav1.Key { return &datav1.Key{Values: []*datav1.Value{integer(id)}} }

func statement(sql string, parameters ...int64) *datav1.Statement {
	st := &datav1.Statement{Sql: sql}
	for _, p := range parameters {
		st.Parameters = append(st.Parameters, integer(p))
	}
	return st
}
