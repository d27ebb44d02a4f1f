package replica

import (
	"bytes"
	"fmt"
	"slices"

	"github.com/cockroachdb/pebble/v2"
	"google.golang.org/protobuf/proto"

	replicationv1 "github.com/nearside-dev/nearside/gen/nearside/replication/v1"
)

// addChunk puts a chunk's rows into the copy in the making. Its index entries are made at the end, when no row changes any
// more.
func (d *Database) addChunk(b *build, c *replicationv1.SnapshotChunk) (*build, error) {
	if err := b.checkChunk(c); err != nil {
		return nil, fmt.Errorf("chunk of table %d: %w", c.GetTableId(), err)
	}
	return d.step(b, func(batch *pebble.Batch, next *build) error {
		prefix := appendDataPrefix(nil, d.id, b.generation, c.GetTableId(), rowsIndex)
		var key, stored []byte
		for _, row := range c.GetRows() {
			key = append(append(key[:0], prefix...), row.GetKey()...)
			stored = appendRowValue(stored[:0], row.GetVersion(), row.GetValue())
			if err := batch.Set(key, stored, nil); err != nil {
				return err
			}
			next.bytes += uint64(len(row.GetKey()) + len(row.GetValue()))
		}
		if c.GetTableId() != next.table {
			next.after = nil
		}
		next.table, next.ended = c.GetTableId(), c.GetLastOfTable()
		if n := len(c.GetRows()); n > 0 {
			next.after = bytes.Clone(c.GetRows()[n-1].GetKey())
		}
		next.newest = max(next.newest, c.GetPosition().GetVersion())
		next.rows += uint64(len(c.GetRows()))
		return nil
	})
}

func (b *build) checkChunk(c *replicationv1.SnapshotChunk) error {
	id := c.GetTableId()
	at := c.GetPosition()
	switch {
	case b.rowsDone:
		return fmt.Errorf("%w: rows after records", errBuild)
	case id == 0 || id+1 == 0 || !b.wants(id):
		return fmt.Errorf("%w: not asked for", errBuild)
	case id < b.table || id == b.table && b.ended:
		return fmt.Errorf("%w: follows one of table %d", errBuild, b.table)
	case at.GetVersion() < b.begin.version:
		return fmt.Errorf("%w: of version %d, begun at %d", errBuild, at.GetVersion(), b.begin.version)
	case len(c.GetRows()) == 0 && !c.GetLastOfTable():
		return fmt.Errorf("%w: no rows", errBuild)
	}
	var after []byte
	if id == b.table {
		after = b.after
	}
	for _, row := range c.GetRows() {
		if len(row.GetKey()) == 0 || len(row.GetValue()) == 0 || row.GetVersion() > at.GetVersion() ||
			after != nil && bytes.Compare(row.GetKey(), after) <= 0 {
			return fmt.Errorf("%w: row %x after %x", errBuild, row.GetKey(), after)
		}
		after = row.GetKey()
	}
	return nil
}

// addRecords applies records to the copy in the making. Their rows are final, so it does not matter that a chunk may be newer
// than they are: the last record that names a row is right, and a row that none names is as its chunk has it.
func (d *Database) addRecords(b *build, records [][]byte) (*build, error) {
	return d.step(b, func(batch *pebble.Batch, next *build) error {
		next.rowsDone = true
		for _, record := range records {
			var r replicationv1.CommitRecord
			if err := proto.Unmarshal(record, &r); err != nil {
				return fmt.Errorf("%w: record after %d: %w", errBuild, next.at.version, err)
			}
			if r.GetVersion() != next.at.version+1 || !bytes.Equal(r.GetPreviousChecksum(), next.at.checksum[:]) ||
				r.GetEpoch() < next.at.epoch {
				return fmt.Errorf("%w: record %d after %d", errBuild, r.GetVersion(), next.at.version)
			}
			if err := d.buildRecord(batch, next, &r); err != nil {
				return fmt.Errorf("record %d: %w", r.GetVersion(), err)
			}
			sum, err := checksumOf(record)
			if err != nil {
				return fmt.Errorf("%w: record %d: %w", errBuild, r.GetVersion(), err)
			}
			next.at.epoch, next.at.version, next.at.checksum = r.GetEpoch(), r.GetVersion(), sum
		}
		return nil
	})
}

func (d *Database) buildRecord(batch *pebble.Batch, next *build, r *replicationv1.CommitRecord) error {
	drop := func(table uint32) error {
		lower, upper := tableRange(d.id, next.generation, table)
		return batch.DeleteRange(lower, upper, nil)
	}
	if r.GetCatalog() != nil {
		before := next.catalog
		if err := d.setNextCatalog(batch, next, r.GetCatalog(), r.GetVersion()); err != nil {
			return err
		}
		for _, t := range before.Tables {
			if next.catalog.TableByID(t.ID) == nil {
				if err := drop(t.ID); err != nil {
					return err
				}
			}
		}
	}
	for _, id := range r.GetDroppedTableIds() {
		if err := drop(id); err != nil {
			return err
		}
	}
	var key, stored []byte
	for _, change := range r.GetTables() {
		if !next.wants(change.GetTableId()) {
			continue
		}
		if next.catalog.TableByID(change.GetTableId()) == nil {
			return fmt.Errorf("%w: rows of table %d, which is not in the schema", errBuild, change.GetTableId())
		}
		if change.GetReplaced() && change.GetTableId() > next.table {
			// No chunk can have had it. One that was there when a chunk was read was sent after those with smaller ids.
			next.lacking = append(slices.Clone(next.lacking), change.GetTableId())
		}
		for _, row := range change.GetRows() {
			key = appendDataPrefix(key[:0], d.id, next.generation, change.GetTableId(), rowsIndex)
			key = append(key, row.GetKey()...)
			var err error
			if row.Value == nil {
				err = batch.Delete(key, nil)
			} else {
				stored = appendRowValue(stored[:0], r.GetVersion(), row.GetValue())
				err = batch.Set(key, stored, nil)
			}
			if err != nil {
				return err
			}
		}
	}
	return nil
}
