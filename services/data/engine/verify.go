package engine

import (
	"context"
	"fmt"
	"strings"

	"google.golang.org/protobuf/proto"

	replicationv1 "github.com/nearside-dev/nearside/gen/nearside/replication/v1"
	"github.com/nearside-dev/nearside/internal/catalog"
	"github.com/nearside-dev/nearside/internal/rowcodec"
	"github.com/nearside-dev/nearside/internal/sqlite"
	"github.com/nearside-dev/nearside/services/data/changelog"
)

// rollForwardBytes is how much of the log is held at a time while sums are brought to a view's version.
const rollForwardBytes = 1 << 20

// ViewWithSums is View, with the sums that the log has for the very version of the view: what the view's rows must add up
// to. Tables that never had a row are not in them.
//
// The log's stored sums are those of its end, and a view's version cannot be chosen. So the sums are taken first, with the
// version that they are of; the view is opened when that version is published, which makes it the same or newer; and the
// records in between, which hold each changed table's new sum, bring the sums forward.
func (db *DB) ViewWithSums(ctx context.Context, f func(v *View, sums map[uint32]changelog.TableSum) error) error {
	if err := db.Problem(); err != nil {
		return notServed(err)
	}
	head, sums, err := db.log.HeadAndSums(db.id)
	if err != nil {
		return err
	}
	if err := db.awaitPublished(ctx, head.Version); err != nil {
		return err
	}
	return db.View(ctx, func(v *View) error {
		if err := db.rollForward(sums, head.Version, v.head.Version); err != nil {
			return err
		}
		return f(v, sums)
	})
}

// rollForward brings sums from one version to another with what the records between them say.
func (db *DB) rollForward(sums map[uint32]changelog.TableSum, from, to uint64) error {
	if from > to {
		return fmt.Errorf("%w: the file has version %d, the log published %d", changelog.ErrCorrupt, to, from)
	}
	for from < to {
		records, err := db.log.Read(db.id, from, rollForwardBytes)
		if err != nil {
			return err
		}
		if len(records) == 0 {
			return notServed(fmt.Errorf("database %d is not published", db.id))
		}
		for _, b := range records {
			if from == to {
				break
			}
			var r replicationv1.CommitRecord
			if err := proto.Unmarshal(b, &r); err != nil {
				return fmt.Errorf("%w: record %d: %w", changelog.ErrCorrupt, from+1, err)
			}
			for _, id := range r.DroppedTableIds {
				delete(sums, id)
			}
			for _, t := range r.Tables {
				sum, err := rowcodec.ParseSum(t.Sum)
				if err != nil {
					return fmt.Errorf("%w: record %d: %w", changelog.ErrCorrupt, from+1, err)
				}
				sums[t.TableId] = changelog.TableSum{Sum: sum, Rows: t.RowCount}
			}
			from++
		}
	}
	return nil
}

// ScanTable calls f with the key and the value of every row of a table; both are valid until f returns. With ordered set the
// keys ascend, as the bytes that they are; a file whose rows SQLite does not find in that order is ErrCorrupt.
func (v *View) ScanTable(t *catalog.Table, ordered bool, f func(key, value []byte) error) error {
	a, err := newAccess(t)
	if err != nil {
		return err
	}
	query := a.readAll
	if ordered {
		q := newKeyedRead(t)
		parts := t.KeyColumns()
		if t.Identity != catalog.IdentityDeclared {
			parts = []catalog.KeyPart{{Column: -1}} // by its own name, which an INTEGER PRIMARY KEY may be
		}
		for _, part := range parts {
			direction := " ASC"
			if part.Desc {
				direction = " DESC"
			}
			q.order = append(q.order, q.expr(part)+direction)
		}
		query += " ORDER BY " + strings.Join(q.order, ", ")
	}
	var key, value, last []byte
	err = v.r.rows(query, nil, func(st *sqlite.Stmt) error {
		row := a.row(st)
		key, value = rowcodec.AppendRowKey(key[:0], t, row), rowcodec.AppendRow(value[:0], t, row)
		if ordered {
			if last != nil && string(last) >= string(key) {
				return fmt.Errorf("%w: rows of table %s are not in the order of their keys", ErrCorruptFile, t.Name)
			}
			last = append(last[:0], key...)
		}
		return f(key, value)
	})
	if isInterrupt(err) && v.r.ctx.Err() != nil {
		return interruptedError(v.r.ctx)
	}
	return err
}
