package verify

import (
	"context"
	"errors"
	"net/http"
	"time"

	"connectrpc.com/connect"

	controlv1 "github.com/nearside-dev/nearside/gen/nearside/control/v1"
	"github.com/nearside-dev/nearside/gen/nearside/control/v1/controlv1connect"
	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/internal/meshdb"
	"github.com/nearside-dev/nearside/internal/rpcerr"
	"github.com/nearside-dev/nearside/internal/verify"
	"github.com/nearside-dev/nearside/sidecar/readpath"
	"github.com/nearside-dev/nearside/sidecar/replica"
)

// Options configures a Service. All fields are required.
type Options struct {
	Region     string
	PrimaryURL string
	Store      *replica.Store
	Directory  *readpath.Directory
	HTTPClient *http.Client // asks other nodes
	Streams    *http.Client // reads the primary's state; HTTP/2, so that a dead peer is noticed
	Recorder   *verify.Recorder
}

// maxMessageBytes bounds a part of a state: a chunk is small, but one key may be long.
const maxMessageBytes = 80 << 20

// Service answers VerifyService for a region's gateway. ReadState is the primary's alone.
type Service struct {
	controlv1connect.UnimplementedVerifyServiceHandler

	options Options
	primary controlv1connect.VerifyServiceClient
	gate    *verify.Gate
}

var _ controlv1connect.VerifyServiceHandler = (*Service)(nil)

// New returns a region's Service.
func New(o Options) *Service {
	return &Service{
		options: o,
		primary: controlv1connect.NewVerifyServiceClient(o.Streams, o.PrimaryURL,
			connect.WithAcceptCompression("gzip", nil, nil), connect.WithReadMaxBytes(maxMessageBytes)),
		gate: verify.NewGate(1, "check of this node runs"),
	}
}

// target is a database whose copy is to be compared.
type target struct {
	id   uint32
	name string
}

// Verify implements controlv1connect.VerifyServiceHandler.
func (s *Service) Verify(
	ctx context.Context, req *connect.Request[controlv1.VerifyRequest],
) (*connect.Response[controlv1.VerifyResponse], error) {
	leave, err := s.gate.Enter()
	if err != nil {
		return nil, err
	}
	defer leave()
	ctx, cancel := context.WithTimeout(ctx, verify.MaxDuration)
	defer cancel()
	targets, err := s.targets(req.Msg.GetDatabase())
	if err != nil {
		return nil, err
	}
	own := func() []*controlv1.VerifyResult { return s.verifyAll(ctx, targets, req.Msg.GetDeep()) }
	if req.Msg.GetLocalOnly() {
		return connect.NewResponse(&controlv1.VerifyResponse{Results: own()}), nil
	}
	regions, err := s.options.Directory.Regions()
	if err != nil {
		return nil, rpcerr.New(datav1.ErrorReason_ERROR_REASON_NOT_READY, "regions are not known yet: %w", err)
	}
	if err := verify.CheckRegions(req.Msg, regions); err != nil {
		return nil, err
	}
	id, _ := s.options.Store.Identity()
	results := verify.Ask(ctx, s.options.HTTPClient, s.options.PrimaryURL, id.PrimaryRegion, true, req.Msg)
	results = append(results, verify.Round(ctx, s.options.HTTPClient, regions, req.Msg, s.options.Region, own)...)
	return connect.NewResponse(&controlv1.VerifyResponse{Results: results}), nil
}

// targets returns the database of a name, or all that the region is to have, _mesh first.
func (s *Service) targets(name string) ([]target, error) {
	databases, err := s.options.Directory.Databases()
	if err != nil {
		return nil, rpcerr.New(datav1.ErrorReason_ERROR_REASON_NOT_READY, "databases are not known yet: %w", err)
	}
	found := false
	var targets []target
	add := func(id uint32, n string, placed bool) {
		if name != "" && name != n {
			return
		}
		found = true
		if placed {
			targets = append(targets, target{id: id, name: n})
		}
	}
	add(meshdb.DatabaseID, meshdb.Name, true)
	for _, d := range databases {
		add(d.ID(), d.Name(), d.Placed())
	}
	if !found {
		return nil, rpcerr.New(datav1.ErrorReason_ERROR_REASON_DATABASE_NOT_FOUND, "no such database: %s", name).
			With("database", name)
	}
	return targets, nil
}

func (s *Service) verifyAll(ctx context.Context, targets []target, deep bool) []*controlv1.VerifyResult {
	results := make([]*controlv1.VerifyResult, 0, len(targets))
	for _, t := range targets {
		begin := time.Now()
		r := s.verify(ctx, t, deep)
		s.options.Recorder.Record(ctx, r, time.Since(begin))
		results = append(results, r)
	}
	return results
}

// verify compares one copy, and where it differs compares it again before that counts.
func (s *Service) verify(ctx context.Context, t target, deep bool) *controlv1.VerifyResult {
	first, suspect := s.attempt(ctx, t, deep, false)
	if !suspect {
		return first
	}
	second, _ := s.attempt(ctx, t, deep, true)
	if second.GetError() != "" {
		second.Findings = first.GetFindings() // it was noticed elsewhere too, and is being repaired, or is not confirmed
	}
	return second
}

// attempt compares a copy once, and again where the database moved too far meanwhile. suspect reports whether the copy
// itself is wrong; with mark set it is marked then.
func (s *Service) attempt(ctx context.Context, t target, deep, mark bool) (r *controlv1.VerifyResult, suspect bool) {
	for range maxAttempts {
		c := &comparison{
			service: s, target: t, deep: deep, mark: mark,
			result: &controlv1.VerifyResult{Region: s.options.Region, Database: t.name},
		}
		err := c.run(ctx)
		if errors.Is(err, errMoved) {
			continue
		}
		c.result.Findings = c.findings.List()
		if err != nil {
			c.result.Error = err.Error()
		}
		return c.result, c.suspect()
	}
	return &controlv1.VerifyResult{
		Region: s.options.Region, Database: t.name, Error: "the database changes too fast to be compared",
	}, false
}
