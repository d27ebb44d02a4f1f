package gateway

import (
	"context"
	"math"
	"net/http"
	"time"

	"connectrpc.com/connect"

	controlv1 "github.com/nearside-dev/nearside/gen/nearside/control/v1"
	"github.com/nearside-dev/nearside/gen/nearside/control/v1/controlv1connect"
	"github.com/nearside-dev/nearside/internal/meshdb"
	"github.com/nearside-dev/nearside/internal/server"
	"github.com/nearside-dev/nearside/internal/status"
	"github.com/nearside-dev/nearside/sidecar/forward"
	"github.com/nearside-dev/nearside/sidecar/readpath"
	"github.com/nearside-dev/nearside/sidecar/replica"
)

// Status answers StatusService for the mesh as a region sees it. All fields are required.
type Status struct {
	Region     string
	URL        string // of this gateway
	Store      *replica.Store
	Directory  *readpath.Directory
	Primary    *forward.Primary
	Health     *server.Health
	Path       *readpath.Path
	Connected  func() bool  // whether the stream from the primary is up
	HTTPClient *http.Client // asks the other regions
}

var _ controlv1connect.StatusServiceHandler = (*Status)(nil)

// GetStatus implements controlv1connect.StatusServiceHandler. A region that does not know the others yet answers for itself
// only.
func (s *Status) GetStatus(
	ctx context.Context, req *connect.Request[controlv1.GetStatusRequest],
) (*connect.Response[controlv1.GetStatusResponse], error) {
	regions, err := s.Directory.Regions()
	own := s.own(regions)
	if req.Msg.GetFallbacks() {
		own.Fallbacks = s.fallbacks()
	}
	if err != nil && own.Reason == "" {
		own.Reason = "other regions are not known: " + err.Error()
	}
	if req.Msg.GetLocalOnly() || err != nil {
		return connect.NewResponse(&controlv1.GetStatusResponse{Regions: []*controlv1.GetStatusResponse_Region{own}}), nil //nolint:nilerr // the answer says it
	}
	return connect.NewResponse(status.Gather(ctx, s.HTTPClient, regions, own, req.Msg)), nil
}

func (s *Status) own(regions []meshdb.Region) *controlv1.GetStatusResponse_Region {
	own := &controlv1.GetStatusResponse_Region{
		Name: s.Region, Url: s.URL, Breaker: s.Primary.State(), Connected: s.Connected(),
	}
	own.Ready, own.Reason = s.Health.Ready()
	if id, ok := s.Store.Identity(); ok {
		own.Primary = id.PrimaryRegion == s.Region
	}
	for _, r := range regions {
		if r.Name == s.Region {
			own.Primary = r.IsPrimary
		}
	}
	if s.Directory.MeshProblem() != nil { // else it is nobody's concern
		own.Databases = append(own.Databases, s.database(meshdb.Name, meshdb.DatabaseID))
	}
	databases, err := s.Directory.Databases()
	if err != nil {
		return own // not ready, and the reason is there
	}
	for _, d := range databases {
		if d.Placed() {
			own.Databases = append(own.Databases, s.database(d.Name(), d.ID()))
		}
	}
	return own
}

// fallbacks are the statements that this region left to the primary.
func (s *Status) fallbacks() (list []*controlv1.GetStatusResponse_Fallback) {
	for _, f := range s.Path.Fallbacks() {
		list = append(list, &controlv1.GetStatusResponse_Fallback{
			Database: f.Database, Reason: f.Reason, Count: f.Count, LastUnixMs: f.Last.UnixMilli(), Statement: f.Statement,
		})
	}
	return list
}

func (s *Status) database(name string, id uint32) *controlv1.GetStatusResponse_Database {
	out := &controlv1.GetStatusResponse_Database{Name: name, StalenessMs: math.MaxUint32}
	c, ok := s.Store.Database(id)
	if !ok {
		out.Problem = replica.ErrSyncing.Error()
		return out
	}
	_, out.Version = c.Applied()
	_, target := c.Target()
	out.Lag = target - min(target, out.Version)
	out.StalenessMs = readpath.Milliseconds(c.Staleness(time.Now()))
	if p, ok := c.SnapshotProgress(); ok {
		out.Snapshot = &controlv1.GetStatusResponse_Snapshot{
			Rows: p.Rows, TotalRows: p.TotalRows, Bytes: p.Bytes, Table: p.Table, Finishing: p.Finishing,
		}
	}
	for _, id := range c.DivergedTables() {
		out.DivergedTables = append(out.DivergedTables, c.TableName(id))
	}
	out.WithheldTables = c.Withheld()
	if err := c.Problem(); err != nil {
		out.Problem = err.Error()
	}
	return out
}
