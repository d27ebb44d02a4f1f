package control

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	"connectrpc.com/connect"

	controlv1 "github.com/nearside-dev/nearside/gen/nearside/control/v1"
	"github.com/nearside-dev/nearside/gen/nearside/control/v1/controlv1connect"
	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/internal/catalog"
	"github.com/nearside-dev/nearside/internal/meshdb"
	"github.com/nearside-dev/nearside/internal/placement"
	"github.com/nearside-dev/nearside/internal/rowcodec"
	"github.com/nearside-dev/nearside/internal/rpcerr"
	"github.com/nearside-dev/nearside/internal/verify"
	"github.com/nearside-dev/nearside/services/data/changelog"
	"github.com/nearside-dev/nearside/services/data/engine"
	"github.com/nearside-dev/nearside/services/data/registry"
)

// maxStates is how many regions may read a state at a time: each holds a read connection of its database.
const maxStates = 4

// VerifyService answers for the primary: it checks its own rows and log, gives regions the state that they compare their
// copies with, and passes the question on to them.
type VerifyService struct {
	registry *registry.Registry
	log      *changelog.Log
	region   string
	client   *http.Client
	recorder *verify.Recorder
	checks   *verify.Gate
	states   *verify.Gate
}

var _ controlv1connect.VerifyServiceHandler = (*VerifyService)(nil)

// NewVerifyService returns a VerifyService of a primary in a region. It asks other nodes with client.
func NewVerifyService(
	r *registry.Registry, log *changelog.Log, region string, client *http.Client, recorder *verify.Recorder,
) *VerifyService {
	return &VerifyService{
		registry: r, log: log, region: region, client: client, recorder: recorder,
		checks: verify.NewGate(1, "check of this node runs"), states: verify.NewGate(maxStates, "states are read"),
	}
}

// Verify implements VerifyService.
func (s *VerifyService) Verify(
	ctx context.Context, req *connect.Request[controlv1.VerifyRequest],
) (*connect.Response[controlv1.VerifyResponse], error) {
	leave, err := s.checks.Enter()
	if err != nil {
		return nil, err
	}
	defer leave()
	ctx, cancel := context.WithTimeout(ctx, verify.MaxDuration)
	defer cancel()
	databases, err := s.databases(req.Msg.GetDatabase())
	if err != nil {
		return nil, err
	}
	regions, err := s.registry.Regions(ctx)
	if err != nil {
		return nil, err
	}
	if err := verify.CheckRegions(req.Msg, regions); err != nil {
		return nil, err
	}
	res := &controlv1.VerifyResponse{}
	for _, d := range databases {
		begin := time.Now()
		r := s.check(ctx, d, req.Msg.GetDeep())
		s.recorder.Record(ctx, r, time.Since(begin))
		res.Results = append(res.Results, r)
	}
	if !req.Msg.GetLocalOnly() {
		res.Results = append(res.Results, verify.Round(ctx, s.client, regions, req.Msg, "", nil)...)
	}
	return connect.NewResponse(res), nil
}

// databases returns the database of a name, or all of them where there is none.
func (s *VerifyService) databases(name string) ([]*registry.Database, error) {
	if name != "" {
		d, err := s.registry.Database(name)
		if err != nil {
			return nil, err
		}
		return []*registry.Database{d}, nil
	}
	mesh, err := s.registry.Database(meshdb.Name)
	if err != nil {
		return nil, err
	}
	return append([]*registry.Database{mesh}, s.registry.Databases()...), nil
}

// check compares the rows of a database's file with the log's sums, and deep the log with its checksums.
func (s *VerifyService) check(ctx context.Context, d *registry.Database, deep bool) *controlv1.VerifyResult {
	r := &controlv1.VerifyResult{Region: s.region, Primary: true, Database: d.Name}
	var findings verify.Findings
	var head changelog.Head
	err := d.ViewWithSums(ctx, func(v *engine.View, sums map[uint32]changelog.TableSum) error {
		head = v.Head()
		r.Version = head.Version
		for _, t := range v.Catalog().Tables {
			var got changelog.TableSum
			err := v.ScanTable(t, false, func(key, value []byte) error {
				got.Sum = got.Sum.Add(rowcodec.RowSum(t.ID, key, value))
				got.Rows++
				return nil
			})
			if engine.IsCorruptFile(err) {
				findings.Detail(controlv1.FindingKind_FINDING_KIND_PRIMARY_SUM, verify.Place{Table: t}, err.Error())
				continue
			}
			if err != nil {
				return err
			}
			r.Tables++
			r.Rows += got.Rows
			if want := sums[t.ID]; got != want {
				findings.Detail(controlv1.FindingKind_FINDING_KIND_PRIMARY_SUM, verify.Place{Table: t},
					fmt.Sprintf("the file has %d rows with sum %v, the log says %d with %v", got.Rows, got.Sum, want.Rows, want.Sum))
			}
		}
		return nil
	})
	if err == nil && deep {
		err = s.log.CheckChain(ctx, d.ID(), head)
	}
	if errors.Is(err, changelog.ErrCorrupt) {
		findings.Detail(controlv1.FindingKind_FINDING_KIND_LOG, verify.Place{}, err.Error())
		err = nil
	}
	if err != nil {
		r.Error = err.Error()
	}
	r.Findings = findings.List()
	return r
}

// ReadState implements VerifyService.
func (s *VerifyService) ReadState(
	ctx context.Context, req *connect.Request[controlv1.ReadStateRequest], stream *connect.ServerStream[controlv1.ReadStateResponse],
) error {
	leave, err := s.states.Enter()
	if err != nil {
		return err
	}
	defer leave()
	// The view keeps SQLite from using its write-ahead log anew, so it must end, however slow the reader.
	ctx, cancel := context.WithTimeout(ctx, verify.MaxDuration)
	defer cancel()
	d, err := s.registry.Database(req.Msg.GetDatabase())
	if err != nil {
		return err
	}
	rules, region := s.registry.Placement(), placement.RegionOf(ctx, req.Msg.GetRegion())
	if !rules.Allows(d.ID(), region) {
		return rpcerr.New(datav1.ErrorReason_ERROR_REASON_DATABASE_NOT_FOUND, "the region may not hold database %s", d.Name).
			With("database", d.Name)
	}
	withheld := rules.Withheld(d.ID(), region)
	return d.ViewWithSums(ctx, func(v *engine.View, sums map[uint32]changelog.TableSum) error {
		filter := placement.NewFilter(withheld, withheld, v.Catalog().ToProto())
		seen, err := catalog.FromProto(filter.Catalog(v.Catalog().ToProto()))
		if err != nil {
			return err
		}
		checksum, err := verify.CatalogChecksum(seen)
		if err != nil {
			return err
		}
		h := v.Head()
		err = stream.Send(&controlv1.ReadStateResponse{Part: &controlv1.ReadStateResponse_Head{Head: &controlv1.StateHead{
			DatabaseId: d.ID(), Epoch: h.Epoch, Version: h.Version, Checksum: h.Checksum[:], CatalogChecksum: checksum, Withheld: withheld,
		}}})
		if err != nil {
			return err
		}
		tables := slices.DeleteFunc(slices.Clone(v.Catalog().Tables), func(t *catalog.Table) bool { return seen.TableByID(t.ID) == nil })
		slices.SortFunc(tables, func(a, b *catalog.Table) int { return int(int64(a.ID) - int64(b.ID)) })
		for _, t := range tables {
			w := &stateWriter{stream: stream, log: s.log, head: h, database: d.ID(), table: t}
			if err := w.send(ctx, v, sums[t.ID], req.Msg.GetRows()); err != nil {
				return fmt.Errorf("read state of table %s: %w", t.Name, err)
			}
		}
		return nil
	})
}
