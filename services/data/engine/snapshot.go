package engine

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/nearside-dev/nearside/internal/catalog"
	"github.com/nearside-dev/nearside/internal/rowcodec"
	"github.com/nearside-dev/nearside/internal/sqlite"
	"github.com/nearside-dev/nearside/internal/value"
	"github.com/nearside-dev/nearside/services/data/changelog"
)

// Bounds of a chunk. A row larger than all of it is a chunk of its own.
const (
	maxChunkRows  = 1000
	maxChunkBytes = 512 << 10
)

// ChunkStart is where a chunk begins: after a key of a table, or with the table's first row where After is nil.
type ChunkStart struct {
	Table uint32
	After []byte
}

// ChunkRow is a row as replicas hold it. Version is that of its last change; 0 if a commit after the chunk changed it.
type ChunkRow struct {
	Key, Value []byte
	Version    uint64
}

// Chunk is a run of rows of one table, of one version. Its Table is 0 where there is no table left.
type Chunk struct {
	Head  changelog.Head
	Table uint32
	Rows  []ChunkRow
	Last  bool // of the table
}

// ReadChunk reads the next rows, in the order of table ids and keys, in a read transaction of its own. It goes on with the
// first of the wanted tables whose id is at or after start's; nil wants all. It costs what the chunk is large, wherever in
// a table that begins.
func (db *DB) ReadChunk(ctx context.Context, start ChunkStart, wanted []uint32) (c Chunk, err error) {
	err = db.View(ctx, func(v *View) error {
		c.Head = v.head
		var next *catalog.Table
		for _, t := range v.Catalog().Tables {
			if t.ID >= start.Table && (next == nil || t.ID < next.ID) && (wanted == nil || slices.Contains(wanted, t.ID)) {
				next = t
			}
		}
		if next == nil {
			return nil
		}
		c.Table = next.ID
		after := start.After
		if next.ID != start.Table {
			after = nil // the table that it was of is gone
		}
		if err := v.chunk(next, after, &c); err != nil {
			return fmt.Errorf("read table %s: %w", next.Name, err)
		}
		return nil
	})
	return c, err
}

// errChunkFull ends the reading of a chunk.
var errChunkFull = errors.New("chunk is full")

func (v *View) chunk(t *catalog.Table, after []byte, c *Chunk) (err error) {
	a, err := newAccess(t)
	if err != nil {
		return err
	}
	var key []value.Value
	if after != nil {
		if key, err = a.keyFromBytes(after); err != nil {
			return err
		}
	}
	versions, err := v.db.log.RowVersions(v.db.id, t.ID)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, versions.Close()) }()
	size := 0
	take := func(st *sqlite.Stmt) error {
		row := a.row(st)
		r := ChunkRow{Key: rowcodec.AppendRowKey(nil, t, row), Value: rowcodec.AppendRow(nil, t, row)}
		size += len(r.Key) + len(r.Value)
		if len(c.Rows) > 0 && (len(c.Rows) >= maxChunkRows || size > maxChunkBytes) {
			return errChunkFull
		}
		var err error
		if r.Version, err = versions.Of(r.Key); err != nil {
			return err
		}
		if r.Version > v.head.Version {
			r.Version = 0
		}
		c.Rows = append(c.Rows, r)
		return nil
	}
	for i, q := range a.pagesAfter(key) {
		err := v.r.rows(q, key[:max(0, len(key)-i)], take)
		if errors.Is(err, errChunkFull) {
			return nil
		}
		if isInterrupt(err) && v.r.ctx.Err() != nil {
			return v.r.ctx.Err()
		}
		if err != nil {
			return err
		}
	}
	c.Last = true
	return nil
}

// pagesAfter returns the queries whose answers, one after the other, are the rows after a key in the order of keys; all rows
// where key is nil. Each is one range of the key's index: the rows that agree with the key in all parts but the last, then in
// all but the last two, and so on. SQLite would not make that of the comparison of tuples, if the parts have different
// directions.
func (a *access) pagesAfter(key []value.Value) []string {
	limit := " LIMIT " + strconv.Itoa(maxChunkRows+1)
	parts := a.table.KeyColumns()
	exprs, order := make([]string, len(parts)), make([]string, len(parts))
	for i, part := range parts {
		exprs[i] = rowidName(a.table)
		if part.Column >= 0 {
			exprs[i] = quote(a.table.Columns[part.Column].Name) + " COLLATE " + collationName(part.Collation)
		}
		order[i] = exprs[i]
		if part.Desc {
			order[i] += " DESC"
		}
	}
	if key == nil {
		return []string{a.readAll + " ORDER BY " + strings.Join(order, ", ") + limit}
	}
	var queries []string
	for last := range slices.Backward(parts) {
		var terms []string
		for i := range last {
			terms = append(terms, exprs[i]+" = ?"+strconv.Itoa(i+1))
		}
		compare := " > ?"
		if parts[last].Desc {
			compare = " < ?"
		}
		terms = append(terms, exprs[last]+compare+strconv.Itoa(last+1))
		queries = append(queries,
			a.readAll+" WHERE "+strings.Join(terms, " AND ")+" ORDER BY "+strings.Join(order[last:], ", ")+limit)
	}
	return queries
}

// Schema returns the newest version and its schema.
func (db *DB) Schema(ctx context.Context) (head changelog.Head, schema *catalog.Catalog, err error) {
	err = db.View(ctx, func(v *View) error {
		head, schema = v.head, v.Catalog()
		return nil
	})
	return head, schema, err
}
