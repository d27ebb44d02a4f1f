package replication

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"connectrpc.com/connect"

	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	replicationv1 "github.com/nearside-dev/nearside/gen/nearside/replication/v1"
	"github.com/nearside-dev/nearside/internal/catalog"
	"github.com/nearside-dev/nearside/internal/meshdb"
	"github.com/nearside-dev/nearside/internal/placement"
	"github.com/nearside-dev/nearside/internal/rpcerr"
	"github.com/nearside-dev/nearside/services/data/changelog"
	"github.com/nearside-dev/nearside/services/data/engine"
)

// capabilitySnapshot is the ability to send and take snapshots.
const capabilitySnapshot = "snapshot"

// resumeTime is how long records are kept for the return of a snapshot that was cut, or for what will follow one that is done.
const resumeTime = 10 * time.Minute

// Source is a database that a snapshot can be taken of.
type Source interface {
	// Schema returns a version and the schema there.
	Schema(ctx context.Context) (changelog.Head, *catalog.Catalog, error)
	// ReadChunk reads the next rows in a transaction of its own.
	ReadChunk(ctx context.Context, start engine.ChunkStart, wanted []uint32) (engine.Chunk, error)
}

var _ Source = (*engine.DB)(nil)

// capabilities returns what both sides can.
func (s *Service) capabilities(hello *replicationv1.Hello) []string {
	var both []string
	if s.config.Source != nil {
		for _, c := range []string{capabilitySnapshot, capabilityPlacement} {
			if slices.Contains(hello.GetCapabilities(), c) {
				both = append(both, c)
			}
		}
	}
	return both
}

// Snapshot implements ReplicationServiceHandler.
func (s *Service) Snapshot(
	ctx context.Context, req *connect.Request[replicationv1.SnapshotRequest],
	stream *connect.ServerStream[replicationv1.SnapshotResponse],
) error {
	if s.config.Source == nil {
		return connect.NewError(connect.CodeUnimplemented, errors.New("this primary takes no snapshots"))
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	if err := s.enter(&cancel); err != nil {
		return err
	}
	defer s.leave(&cancel)
	select {
	case s.snapshots <- struct{}{}:
		defer func() { <-s.snapshots }()
	default:
		return rpcerr.New(datav1.ErrorReason_ERROR_REASON_OVERLOADED, "there are %d snapshots already", cap(s.snapshots)).
			WithRetryAfter(time.Second)
	}
	interrupted := interruptAtEnd(ctx)
	err := s.snapshot(ctx, req.Msg, stream)
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	cancel(nil)
	if interrupted != nil {
		<-interrupted
	}
	return err
}

func (s *Service) snapshot(
	ctx context.Context, req *replicationv1.SnapshotRequest, stream *connect.ServerStream[replicationv1.SnapshotResponse],
) (err error) {
	id := req.GetDatabaseId()
	source, ok := s.config.Source(id)
	published, isPublished := s.log.Published(id)
	if !ok || !isPublished {
		return rpcerr.New(datav1.ErrorReason_ERROR_REASON_STORE_FAILED, "database %d is not served", id)
	}
	x := &snapshotter{
		service: s, id: id, source: source, stream: stream, wanted: req.GetTableIds(), region: placement.RegionOf(ctx, req.GetRegion()),
		rules: s.config.Placement(),
	}
	if len(x.wanted) == 0 {
		x.wanted = nil
	}
	var allowed bool
	if x.withheld, allowed = limited(x.rules, id, x.region); !allowed {
		return rpcerr.New(datav1.ErrorReason_ERROR_REASON_DATABASE_NOT_FOUND, "the region may not hold database %d", id)
	}
	from := published.Version
	if req.GetResume() != nil {
		from = req.GetResume().GetBegin().GetVersion()
	}
	pin, err := s.log.Pin(id, from)
	if errors.Is(err, changelog.ErrTrimmed) {
		return x.restart(err)
	}
	if err != nil {
		return err
	}
	defer func() {
		if err == nil {
			pin.Move(x.sent) // it will want to follow from there
		}
		pin.Release(resumeTime)
	}()
	if req.GetResume() == nil {
		err = x.begin(ctx)
	} else {
		err = x.resume(ctx, req.GetResume())
	}
	if err == nil && !x.rowsDone {
		err = x.rows(ctx)
	}
	if err == nil {
		err = x.finish(ctx)
	}
	if errors.Is(err, changelog.ErrTrimmed) || errors.Is(err, errForkedSnapshot) || errors.Is(err, errReplaced) ||
		errors.Is(err, placement.ErrUnknownTable) {
		return x.restart(err)
	}
	return err
}

var (
	errForkedSnapshot = errors.New("the snapshot is of another history")
	errReplaced       = errors.New("the region may hold other tables than when the snapshot was begun")
)

// snapshotter sends one snapshot.
type snapshotter struct {
	service *Service
	id      uint32
	source  Source
	stream  *connect.ServerStream[replicationv1.SnapshotResponse]
	wanted  []uint32 // nil for all

	region   string
	rules    *placement.Rules // that withheld is of
	withheld []string         // what the region may not hold
	filter   *placement.Filter

	start    engine.ChunkStart
	rowsDone bool
	sent     uint64 // the version of the last record that was sent, or that need not be
}

func (x *snapshotter) restart(why error) error {
	return x.stream.Send(&replicationv1.SnapshotResponse{Message: &replicationv1.SnapshotResponse_Restart{
		Restart: &replicationv1.SnapshotRestart{Message: why.Error()},
	}})
}

func position(h changelog.Head) *replicationv1.LogPosition {
	p := &replicationv1.LogPosition{Epoch: h.Epoch, Version: h.Version}
	if h.Version > 0 {
		p.Checksum = h.Checksum[:]
	}
	return p
}

func (x *snapshotter) begin(ctx context.Context) error {
	head, schema, err := x.source.Schema(ctx)
	if err != nil {
		return err
	}
	x.limit(schema)
	sums, err := x.service.log.TableSums(x.id)
	if err != nil {
		return err
	}
	rows := uint64(0)
	for id, sum := range sums {
		if x.wanted == nil || slices.Contains(x.wanted, id) {
			rows += sum.Rows
		}
	}
	x.sent = head.Version
	return x.stream.Send(&replicationv1.SnapshotResponse{Message: &replicationv1.SnapshotResponse_Begin{
		Begin: &replicationv1.SnapshotBegin{
			Position: position(head), Catalog: x.filter.Catalog(schema.ToProto()), RowCount: rows, Withheld: x.withheld,
		},
	}})
}

// limit keeps to what the region may hold. Tables that are made later than the schema are not asked for: their rows are in records.
func (x *snapshotter) limit(schema *catalog.Catalog) {
	x.filter = placement.NewFilter(x.withheld, x.withheld, schema.ToProto())
	if len(x.withheld) > 0 {
		x.wanted = x.filter.Allowed(x.wanted)
	}
}

// allowed returns errReplaced where the region may hold something else now than when the snapshot was begun.
func (x *snapshotter) allowed() error {
	rules := x.service.config.Placement()
	if rules == x.rules {
		return nil
	}
	withheld, allowed := limited(rules, x.id, x.region)
	if !allowed || !slices.Equal(withheld, x.withheld) {
		return errReplaced
	}
	x.rules = rules
	return nil
}

func (x *snapshotter) resume(ctx context.Context, r *replicationv1.SnapshotRequest_Resume) error {
	if !slices.Equal(r.GetWithheld(), x.withheld) {
		return errReplaced
	}
	_, schema, err := x.source.Schema(ctx)
	if err != nil {
		return err
	}
	x.limit(schema)
	at := r.GetBegin()
	if r.GetRecords() != nil {
		at, x.rowsDone = r.GetRecords(), true
	}
	head, err := x.service.log.At(x.id, at.GetVersion())
	if errors.Is(err, changelog.ErrNotFound) {
		return fmt.Errorf("record %d: %w", at.GetVersion(), changelog.ErrTrimmed)
	}
	if err != nil {
		return err
	}
	if head.Version > 0 && (head.Epoch != at.GetEpoch() || string(head.Checksum[:]) != string(at.GetChecksum())) {
		return fmt.Errorf("%w: record %d", errForkedSnapshot, at.GetVersion())
	}
	x.sent = at.GetVersion()
	x.start = engine.ChunkStart{Table: r.GetTableId(), After: r.GetAfterKey()}
	if r.GetTableDone() {
		x.start = engine.ChunkStart{Table: r.GetTableId() + 1}
	}
	return nil
}

// rows sends the chunks. No transaction is open while a chunk is on its way, however slow the reader is.
func (x *snapshotter) rows(ctx context.Context) error {
	for {
		c, err := x.source.ReadChunk(ctx, x.start, x.wanted)
		if err != nil {
			return err
		}
		if c.Table == 0 {
			return nil
		}
		if err := x.allowed(); err != nil {
			return err
		}
		m := &replicationv1.SnapshotChunk{
			TableId: c.Table, Position: position(c.Head), LastOfTable: c.Last, Rows: make([]*replicationv1.SnapshotChunk_Row, len(c.Rows)),
		}
		for i, r := range c.Rows {
			m.Rows[i] = &replicationv1.SnapshotChunk_Row{Key: r.Key, Value: r.Value, Version: r.Version}
		}
		err = x.stream.Send(&replicationv1.SnapshotResponse{Message: &replicationv1.SnapshotResponse_Chunk{Chunk: m}})
		if err != nil {
			return err
		}
		if c.Last {
			x.start = engine.ChunkStart{Table: c.Table + 1}
		} else {
			x.start = engine.ChunkStart{Table: c.Table, After: c.Rows[len(c.Rows)-1].Key}
		}
	}
}

// finish sends the records that make the rows those of one version, and what they then must be.
func (x *snapshotter) finish(ctx context.Context) error {
	log := x.service.log
	head, sums, err := log.HeadAndSums(x.id)
	if err != nil {
		return err
	}
	if err := x.awaitPublished(ctx, head.Version); err != nil {
		return err
	}
	for x.sent < head.Version {
		records, err := log.ReadUpTo(x.id, x.sent, head.Version, maxGroupBytes)
		if err != nil {
			return err
		}
		if len(records) == 0 {
			return fmt.Errorf("%w: no record after %d", changelog.ErrCorrupt, x.sent)
		}
		if err := x.allowed(); err != nil {
			return err
		}
		for i := range records {
			if records[i], err = x.filter.Record(records[i]); err != nil {
				return err
			}
		}
		err = x.stream.Send(&replicationv1.SnapshotResponse{Message: &replicationv1.SnapshotResponse_Records{
			Records: &replicationv1.Records{DatabaseId: x.id, FirstVersion: x.sent + 1, Records: records},
		}})
		if err != nil {
			return err
		}
		x.sent += uint64(len(records))
	}
	done := &replicationv1.SnapshotDone{Position: position(head)}
	if x.id != meshdb.DatabaseID {
		mesh, _ := log.Published(meshdb.DatabaseID)
		done.MeshVersion = mesh.Version
	}
	for table, sum := range sums {
		if len(x.withheld) > 0 && len(x.filter.Allowed([]uint32{table})) == 0 {
			continue
		}
		b, err := sum.Sum.AppendBinary(nil)
		if err != nil {
			return err
		}
		done.Sums = append(done.Sums, &replicationv1.SnapshotDone_TableSum{TableId: table, Sum: b, RowCount: sum.Rows})
	}
	x.service.config.Logger.InfoContext(ctx, "snapshot sent",
		slog.Uint64("database", uint64(x.id)), slog.Uint64("version", head.Version))
	return x.stream.Send(&replicationv1.SnapshotResponse{Message: &replicationv1.SnapshotResponse_Done{Done: done}})
}

// awaitPublished waits until a version that is appended may be read.
func (x *snapshotter) awaitPublished(ctx context.Context, version uint64) error {
	watch := x.service.log.Watch()
	defer watch.Close()
	for {
		h, ok := x.service.log.Published(x.id)
		if !ok {
			return rpcerr.New(datav1.ErrorReason_ERROR_REASON_STORE_FAILED, "database %d is not served", x.id)
		}
		if h.Version >= version {
			return nil
		}
		if _, err := watch.Wait(ctx); err != nil {
			return err
		}
	}
}
