package verify

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"connectrpc.com/connect"

	controlv1 "github.com/nearside-dev/nearside/gen/nearside/control/v1"
	replicationv1 "github.com/nearside-dev/nearside/gen/nearside/replication/v1"
	"github.com/nearside-dev/nearside/internal/access"
	"github.com/nearside-dev/nearside/internal/catalog"
	"github.com/nearside-dev/nearside/internal/rowcodec"
	"github.com/nearside-dev/nearside/internal/verify"
	"github.com/nearside-dev/nearside/sidecar/replica"
)

const (
	maxAttempts   = 5
	maxDeltaBytes = 8 << 20          // of records between the primary's view and the copy's snapshot
	catchUpTime   = 10 * time.Second // for the copy to reach the primary's view
)

// errMoved means that the schema changed between the view and the snapshot, or too much else.
var errMoved = errors.New("the database moved too far")

// comparison compares one copy with one state of the primary.
type comparison struct {
	service *Service
	target  target
	deep    bool
	mark    bool

	head  *controlv1.StateHead
	snap  *replica.Snapshot
	delta map[uint32]*tableDelta // by table
	table *tableCheck            // the one that the state is at

	result   *controlv1.VerifyResult
	findings verify.Findings
	damage   replica.Damage // what is the copy's own fault
}

// tableDelta is what the records after the primary's view did to a table.
type tableDelta struct {
	rows  map[string]*deltaRow
	sum   rowcodec.Sum // after the last of them
	count uint64
}

// deltaRow is the state of a row after them.
type deltaRow struct {
	version uint64
	value   []byte
	deleted bool
	seen    bool // the copy has the row
}

// run compares. Its error says why it could not; what differs is in the findings.
func (c *comparison) run(ctx context.Context) (err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	d, ok := c.service.options.Store.Database(c.target.id)
	if !ok {
		return fmt.Errorf("database %s: %w", c.target.name, replica.ErrSyncing)
	}
	req := connect.NewRequest(&controlv1.ReadStateRequest{
		Database: c.target.name, Rows: c.deep, Region: c.service.options.Region,
	})
	access.PassOn(ctx, req.Header())
	stream, err := c.service.primary.ReadState(ctx, req)
	if err != nil {
		return fmt.Errorf("read the primary's state: %w", err)
	}
	defer func() { _ = stream.Close() }() // what it could say, Err said
	if !stream.Receive() || stream.Msg().GetHead() == nil {
		return fmt.Errorf("read the primary's state: %w", orEnded(stream.Err()))
	}
	c.head = stream.Msg().GetHead()
	if err := c.open(ctx, d); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.snap.Close()) }()
	defer func() {
		if c.table != nil {
			err = errors.Join(err, c.table.close())
		}
	}()
	for stream.Receive() {
		if err := ctx.Err(); err != nil {
			return err
		}
		switch part := stream.Msg().GetPart().(type) {
		case *controlv1.ReadStateResponse_Rows:
			err = c.rows(part.Rows)
		case *controlv1.ReadStateResponse_Table:
			err = c.tableEnd(ctx, part.Table)
		}
		if err != nil {
			return err
		}
	}
	if err := stream.Err(); err != nil {
		return fmt.Errorf("read the primary's state: %w", err)
	}
	if c.deep {
		if err := c.checkTail(ctx); err != nil {
			return err
		}
	}
	return c.repair(d)
}

// repair has what is the copy's own fault repaired, if this is the comparison that counts.
func (c *comparison) repair(d *replica.Database) (err error) {
	if c.suspect() && c.mark {
		c.result.Repair, err = d.MarkDiverged(c.snap, c.damage)
	}
	return err
}

// suspect reports whether something is wrong that is the copy's own fault.
func (c *comparison) suspect() bool { return c.damage.All || c.damage.Log || len(c.damage.Tables) > 0 }

// blame notes that the copy of a table is wrong.
func (c *comparison) blame(t *catalog.Table) {
	if !slices.Contains(c.damage.Tables, t.ID) {
		c.damage.Tables = append(c.damage.Tables, t.ID)
	}
}

func orEnded(err error) error {
	if err == nil {
		return io.ErrUnexpectedEOF
	}
	return err
}

// open takes a snapshot at or after the version of the primary's view and reads what was committed in between.
func (c *comparison) open(ctx context.Context, d *replica.Database) (err error) {
	if c.head.GetDatabaseId() != d.ID() {
		return fmt.Errorf("the primary's %s has id %d, the copy's %d", c.target.name, c.head.GetDatabaseId(), d.ID())
	}
	wait, cancel := context.WithTimeout(ctx, catchUpTime)
	defer cancel()
	if err := d.WaitFor(wait, c.head.GetEpoch(), c.head.GetVersion()); err != nil {
		_, version := d.Applied()
		return fmt.Errorf("the copy has version %d, the primary %d: %w", version, c.head.GetVersion(), err)
	}
	if c.snap, err = d.Snapshot(); err != nil {
		return err
	}
	if !slices.Equal(c.head.GetWithheld(), c.snap.Withheld()) {
		return errors.Join(errMoved, c.snap.Close())
	}
	if err := c.readDelta(); err != nil {
		return errors.Join(err, c.repair(d), c.snap.Close())
	}
	c.result.Version = c.snap.Version()
	checksum, err := verify.CatalogChecksum(c.snap.Catalog())
	if err != nil {
		return errors.Join(err, c.snap.Close())
	}
	if !bytes.Equal(checksum, c.head.GetCatalogChecksum()) {
		c.damage.All = true
		c.findings.Detail(controlv1.FindingKind_FINDING_KIND_SCHEMA, verify.Place{}, "the schema is not the primary's")
	}
	return nil
}

// readDelta reads the records between the view and the snapshot.
func (c *comparison) readDelta() error {
	checksum := c.snap.Checksum()
	if c.head.GetVersion() == c.snap.Version() {
		if !bytes.Equal(checksum[:], c.head.GetChecksum()) {
			return fmt.Errorf("%w: at version %d", replica.ErrFork, c.snap.Version())
		}
		return nil
	}
	if len(c.head.GetChecksum()) != len(checksum) {
		return fmt.Errorf("the primary's checksum has %d bytes", len(c.head.GetChecksum()))
	}
	copy(checksum[:], c.head.GetChecksum())
	c.delta = make(map[uint32]*tableDelta)
	err := c.snap.RecordsAfter(c.head.GetVersion(), checksum, maxDeltaBytes, c.addRecord)
	switch {
	case errors.Is(err, replica.ErrTail):
		return errMoved
	case errors.Is(err, replica.ErrCorrupt):
		c.foundLog(err)
	}
	return err
}

func (c *comparison) addRecord(r *replicationv1.CommitRecord) error {
	if r.Catalog != nil || len(r.DroppedTableIds) > 0 {
		return errMoved
	}
	for _, t := range r.Tables {
		if t.Replaced && len(t.Sum) == 0 { // the region is about to be told that it may not hold it
			return errMoved
		}
		d := c.delta[t.TableId]
		if d == nil {
			d = &tableDelta{rows: make(map[string]*deltaRow)}
			c.delta[t.TableId] = d
		}
		sum, err := rowcodec.ParseSum(t.Sum)
		if err != nil {
			return fmt.Errorf("record %d: %w", r.Version, err)
		}
		d.sum, d.count = sum, t.RowCount
		for _, row := range t.Rows {
			d.rows[string(row.Key)] = &deltaRow{version: r.Version, value: row.Value, deleted: row.Value == nil}
		}
	}
	return nil
}

// rows compares a chunk of the primary's rows with the copy's.
func (c *comparison) rows(chunk *controlv1.StateRows) error {
	t, err := c.at(chunk.GetTableId())
	if err != nil || t == nil {
		return err
	}
	if n := len(chunk.GetKeys()); len(chunk.GetVersions()) != n || len(chunk.GetSums()) != n*sumSize {
		return fmt.Errorf("the primary's chunk has %d keys, %d versions and %d bytes of sums",
			n, len(chunk.GetVersions()), len(chunk.GetSums()))
	}
	for i, key := range chunk.GetKeys() {
		sum, err := rowcodec.ParseSum(chunk.GetSums()[i*sumSize : (i+1)*sumSize])
		if err != nil {
			return err
		}
		if err := t.merge(key, sum, chunk.GetVersions()[i]); err != nil {
			return err
		}
	}
	return nil
}

// tableEnd compares what is left of a table, and its sums.
func (c *comparison) tableEnd(ctx context.Context, state *controlv1.StateTable) error {
	t, err := c.at(state.GetTableId())
	if err != nil || t == nil {
		return err
	}
	c.table = nil
	err = t.finish(ctx, state)
	if err = errors.Join(err, t.close()); err != nil {
		return fmt.Errorf("table %s: %w", t.table.Name, err)
	}
	c.result.Tables++
	c.result.Rows += t.count
	return nil
}

// at returns the check of the table that the state is at; nil where the copy does not have it, which the schema's finding
// says.
func (c *comparison) at(id uint32) (*tableCheck, error) {
	if c.table != nil {
		if c.table.table.ID != id {
			return nil, fmt.Errorf("the primary's state has table %d before the end of %d", id, c.table.table.ID)
		}
		return c.table, nil
	}
	table := c.snap.Catalog().TableByID(id)
	if table == nil {
		return nil, nil
	}
	var err error
	c.table, err = newTableCheck(c, table)
	return c.table, err
}

func (c *comparison) checkTail(ctx context.Context) error {
	err := c.snap.CheckTail(ctx)
	if errors.Is(err, replica.ErrCorrupt) {
		c.foundLog(err)
		return nil
	}
	return err
}

func (c *comparison) foundLog(err error) {
	c.damage.Log = true
	c.findings.Detail(controlv1.FindingKind_FINDING_KIND_LOG, verify.Place{}, err.Error())
}
