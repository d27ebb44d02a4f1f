package engine

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"slices"
	"strconv"

	"google.golang.org/protobuf/proto"

	replicationv1 "github.com/nearside-dev/nearside/gen/nearside/replication/v1"
	"github.com/nearside-dev/nearside/internal/catalog"
	"github.com/nearside-dev/nearside/internal/sqlite"
	"github.com/nearside-dev/nearside/services/data/changelog"
)

// rowSum is a table's set-sum and row count.
type rowSum = changelog.TableSum

// tableSum is the sum of one table.
type tableSum struct {
	table uint32
	sum   rowSum
}

// change is what one transaction did, ready for the log.
type change struct {
	version   uint64
	tables    []*replicationv1.TableChange
	replaced  bool       // one of them is without its rows: the file must have them before the log has the record
	sums      []tableSum // of the tables above
	dropped   []uint32
	sequences []*replicationv1.Sequence
	migration *Migration

	catalog *catalog.Catalog // if the schema changed
	roots   map[string]int64

	record   []byte
	checksum changelog.Checksum
	time     int64 // nanoseconds since 1970
}

func (c *change) isEmpty() bool {
	return len(c.tables) == 0 && len(c.dropped) == 0 && len(c.sequences) == 0 && c.catalog == nil
}

// addSchema tells the schema as it is now.
func (c *change) addSchema(x *execution) {
	w := x.w
	if proto.Equal(withoutVersion(w.catalog), withoutVersion(x.before.catalog)) {
		return // CREATE TABLE IF NOT EXISTS, and the like
	}
	next := *w.catalog
	next.Version = x.version
	c.catalog, c.roots = &next, w.roots
	for _, t := range x.before.catalog.Tables {
		if next.TableByID(t.ID) == nil {
			c.dropped = append(c.dropped, t.ID)
		}
	}
}

// addWhole ships the tables that the transaction made or rewrote. Those that would make the record too large it only names:
// replicas copy them.
func (c *change) addWhole(x *execution) error {
	w := x.w
	left := w.db.wholeTableBytes
	for _, t := range c.tables {
		for _, r := range t.GetRows() {
			left -= len(r.GetKey()) + len(r.GetValue()) + framing
		}
	}
	for _, t := range w.catalog.Tables {
		if !w.capture.whole[t.ID] {
			continue
		}
		rows, sum, size, fits, err := w.tables[catalog.Fold(t.Name)].readWhole(w.session, left)
		if err != nil {
			return fmt.Errorf("read table %s: %w", t.Name, err)
		}
		switch {
		case !fits:
			c.replaced = true
			c.addTable(t.ID, nil, sum)
			c.tables[len(c.tables)-1].Replaced = true
		case len(rows) > 0:
			left -= size
			c.addTable(t.ID, rows, sum)
		}
	}
	return nil
}

// restartSums tells the sums of the tables that lost a column. SQLite wrote all their rows anew in the statement that did it;
// here each is read once more. That may take long, so whoever asked for it can end it.
func (c *change) restartSums(x *execution) error {
	w := x.w
	for id := range w.capture.shed {
		t := w.catalog.TableByID(id)
		if t == nil || w.capture.whole[id] {
			continue
		}
		w.db.failpoint("before-sums")
		w.current = x
		sum, err := w.tables[catalog.Fold(t.Name)].sumRows(w.session)
		w.current = nil
		if err != nil {
			return x.stepError(err)
		}
		at := slices.IndexFunc(c.tables, func(t *replicationv1.TableChange) bool { return t.GetTableId() == id })
		if at < 0 {
			c.addTable(id, nil, sum)
			continue
		}
		c.tables[at].Sum, c.tables[at].RowCount = sumBytes(sum), sum.Rows
		c.sums = append(c.sums, tableSum{id, sum}) // the last one counts
	}
	return nil
}

// withoutVersion is what a schema says, apart from when it was made and how many ids it took.
func withoutVersion(c *catalog.Catalog) *replicationv1.Catalog {
	p := c.ToProto()
	p.Version, p.NextId = 0, 0
	return p
}

// addRows reads the touched rows back, and the tables that are read whole.
func (c *change) addRows(x *execution) error {
	for _, t := range x.w.capture.tables {
		if t.access == nil {
			continue
		}
		id := t.access.table.ID
		rows, sum, err := t.readBack(x.w.session, x.w.pending.sum(id), x.schema)
		if err != nil {
			return err
		}
		if len(rows) > 0 {
			c.addTable(id, rows, sum)
		}
	}
	if c.catalog != nil {
		if err := c.restartSums(x); err != nil {
			return err
		}
		if err := c.addWhole(x); err != nil {
			return err
		}
	}
	if len(c.tables) < 2 {
		return nil
	}
	slices.SortFunc(c.tables, func(a, b *replicationv1.TableChange) int { return int(a.GetTableId()) - int(b.GetTableId()) })
	return nil
}

func (c *change) addTable(id uint32, rows []rowChange, sum rowSum) {
	c.sums = append(c.sums, tableSum{id, sum})
	if len(rows) == 1 {
		one := &oneRow{table: replicationv1.TableChange{TableId: id, RowCount: sum.Rows}}
		one.table.Sum = appendSum(one.sum[:0], sum)
		one.rows[0] = &one.row
		one.table.Rows, one.row.Key = one.rows[:], rows[0].key
		if !rows[0].deleted {
			one.row.Value, one.row.Fresh = rows[0].value, rows[0].fresh
		}
		c.tables = append(c.tables, &one.table)
		return
	}
	slices.SortFunc(rows, func(a, b rowChange) int { return bytes.Compare(a.key, b.key) })
	t := &replicationv1.TableChange{
		TableId: id, Sum: sumBytes(sum), RowCount: sum.Rows, Rows: make([]*replicationv1.RowChange, len(rows)),
	}
	for i, r := range rows {
		t.Rows[i] = &replicationv1.RowChange{Key: r.key}
		if !r.deleted {
			t.Rows[i].Value, t.Rows[i].Fresh = r.value, r.fresh
		}
	}
	c.tables = append(c.tables, t)
}

// oneRow is the memory of a table's change of one row, which most are.
type oneRow struct {
	table replicationv1.TableChange
	row   replicationv1.RowChange
	rows  [1]*replicationv1.RowChange
	sum   [16]byte
}

func sumBytes(s rowSum) []byte { return appendSum(make([]byte, 0, 16), s) }

func appendSum(b []byte, s rowSum) []byte {
	return binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(b, s.Sum.Hi), s.Sum.Lo)
}

// addSequences ships those entries of sqlite_sequence that are not what they were.
func (c *change) addSequences(x *execution) error {
	w, schema := x.w, x.w.catalog
	if !slices.ContainsFunc(schema.Tables, func(t *catalog.Table) bool { return t.Autoincrement }) {
		return nil
	}
	now := make(map[string]int64)
	err := w.rows("SELECT name, seq FROM main.sqlite_sequence", nil, func(st *sqlite.Stmt) error {
		now[st.Column(0).Text()] = st.ColumnInt64(1)
		return nil
	})
	if err != nil {
		return err
	}
	for _, t := range schema.Tables {
		if !t.Autoincrement {
			continue
		}
		seq, ok := now[t.Name]
		before, known := w.pending.sequence(t.ID)
		switch {
		case ok && (!known || before != seq):
			c.sequences = append(c.sequences, &replicationv1.Sequence{TableId: t.ID, Value: &seq})
		case !ok && known:
			c.sequences = append(c.sequences, &replicationv1.Sequence{TableId: t.ID})
		}
	}
	return nil
}

// encode writes the record. Everyone after this carries its bytes.
func (c *change) encode(w *writer, tx *Transaction) error {
	c.time = w.now().UnixNano()
	c.migration = tx.Migration
	r := &replicationv1.CommitRecord{
		Version: c.version, Epoch: w.pending.head.Epoch, PreviousChecksum: w.pending.head.Checksum[:],
		TimeUnixNanos: c.time, MeshVersion: w.meshVersion(), Tables: c.tables, DroppedTableIds: c.dropped,
		Sequences: c.sequences, Actor: tx.Actor, IdempotencyKey: tx.Key.Key, Trace: tx.Trace,
		CallerAddress: tx.Address.AsSlice(),
	}
	if tx.Key.Key != "" {
		r.RequestHash = tx.RequestHash[:]
	}
	if c.catalog != nil {
		r.Catalog = c.catalog.ToProto()
	}
	if m := tx.Migration; m != nil {
		r.Migration = &replicationv1.AppliedMigration{Ordinal: m.Ordinal, Name: m.Name, Checksum: m.Checksum[:]}
	}
	record, err := proto.Marshal(r)
	if err != nil {
		return err
	}
	if len(record) > MaxTransactionBytes {
		return tooLarge(len(record), MaxTransactionBytes)
	}
	c.record, c.checksum = record, changelog.ChecksumOf(record)
	return nil
}

// head is the log's place after the change.
func (c *change) head(epoch uint32) changelog.Head {
	return changelog.Head{Epoch: epoch, Version: c.version, Checksum: c.checksum}
}

// appendTo puts the change into a log batch, but for the tables' sums.
func (c *change) appendTo(b *changelog.Batch) error {
	if err := b.Record(c.version, c.record); err != nil {
		return err
	}
	for _, id := range c.dropped {
		if err := b.DropTable(id); err != nil {
			return err
		}
	}
	for _, t := range c.tables {
		if t.GetReplaced() {
			if err := b.AllRows(t.GetTableId(), c.version); err != nil {
				return err
			}
		}
		for _, r := range t.GetRows() {
			ref := changelog.RowRef{Table: t.GetTableId(), Key: r.GetKey()}
			if err := b.Row(ref, c.version, r.Value == nil); err != nil {
				return err
			}
		}
	}
	if m := c.migration; m != nil {
		return b.Migration(changelog.Migration{
			Ordinal: m.Ordinal, Name: m.Name, Checksum: m.Checksum, Version: c.version, TimeUnixNanos: c.time,
		})
	}
	return nil
}

func rowRef(table uint32, key []byte) string {
	return string(append(binary.BigEndian.AppendUint32(make([]byte, 0, 4+len(key)), table), key...))
}

func itoa(n int) string { return strconv.Itoa(n) }
