package auditlog

import (
	"cmp"
	"context"
	"net/netip"
	"slices"
	"strconv"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	authv1 "github.com/nearside-dev/nearside/gen/nearside/auth/v1"
	"github.com/nearside-dev/nearside/gen/nearside/auth/v1/authv1connect"
	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	replicationv1 "github.com/nearside-dev/nearside/gen/nearside/replication/v1"
	"github.com/nearside-dev/nearside/internal/audit"
	"github.com/nearside-dev/nearside/internal/catalog"
	"github.com/nearside-dev/nearside/internal/requestid"
	"github.com/nearside-dev/nearside/internal/rpcerr"
	"github.com/nearside-dev/nearside/internal/value"
	"github.com/nearside-dev/nearside/services/data/changelog"
	"github.com/nearside-dev/nearside/services/data/engine"
	"github.com/nearside-dev/nearside/services/data/registry"
)

const (
	defaultPage = 100
	// readBytes is how much of a log is held at a time.
	readBytes = 4 << 20
)

// Service answers AuditService.
type Service struct {
	store     *Store
	log       *changelog.Log
	databases *registry.Registry
}

var _ authv1connect.AuditServiceHandler = (*Service)(nil)

// NewService returns a Service over the chain, and over the logs of databases.
func NewService(s *Store, log *changelog.Log, databases *registry.Registry) *Service {
	return &Service{store: s, log: log, databases: databases}
}

// ListEntries implements authv1connect.AuditServiceHandler.
func (s *Service) ListEntries(
	ctx context.Context, req *connect.Request[authv1.ListEntriesRequest],
) (*connect.Response[authv1.ListEntriesResponse], error) {
	m := req.Msg
	size := int64(cmp.Or(m.GetPageSize(), defaultPage))
	before := int64(1<<63 - 1)
	if t := m.GetPageToken(); t != "" {
		n, err := strconv.ParseInt(t, 10, 64)
		if err != nil || n <= 0 {
			return nil, rpcerr.InvalidField("page_token", "is none")
		}
		before = n
	}
	since := int64(-1 << 63)
	if t := m.GetSince(); t != nil {
		if !t.IsValid() {
			return nil, rpcerr.InvalidField("since", "is no time")
		}
		since = t.AsTime().UnixNano()
	}
	res := &authv1.ListEntriesResponse{}
	err := s.store.db.View(ctx, func(v *engine.View) error {
		_, err := v.Query(&datav1.Statement{
			Sql: "SELECT " + columns + ` FROM entries WHERE sequence < ?1 AND time >= ?2 AND (?3 = '' OR actor = ?3)
				AND (?4 = '' OR action = ?4 OR substr(action, 1, length(?4) + 1) = ?4 || '/') AND (?5 = 0 OR decision = ?5)
				ORDER BY sequence DESC LIMIT ?6`,
			Parameters: value.ToProtos([]value.Value{
				integer(before), integer(since), text(m.GetActor()), text(m.GetAction()), integer(int64(m.GetDecision())), integer(size + 1),
			}),
		}, sink(func(vs []value.Value) error {
			if int64(len(res.Entries)) == size {
				res.NextPageToken = strconv.FormatUint(res.Entries[size-1].GetSequence(), 10)
				return nil
			}
			r := rowOf(vs)
			res.Entries = append(res.Entries, &authv1.ChainedEntry{Sequence: r.sequence, Entry: r.entry, Hash: r.hash[:]})
			return nil
		}))
		return err
	})
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(res), nil
}

// ListWrites implements authv1connect.AuditServiceHandler.
func (s *Service) ListWrites(
	ctx context.Context, req *connect.Request[authv1.ListWritesRequest],
) (*connect.Response[authv1.ListWritesResponse], error) {
	d, err := s.databases.Database(req.Msg.GetDatabase())
	if err != nil {
		return nil, err
	}
	_, c, err := d.Schema(ctx)
	if err != nil {
		return nil, err
	}
	head, _ := s.log.Published(d.ID())
	size := uint64(cmp.Or(req.Msg.GetPageSize(), defaultPage))
	first, err := s.log.First(d.ID())
	if err != nil {
		return nil, err
	}
	after := max(head.Version-min(head.Version, size), first-1)
	res := &authv1.ListWritesResponse{}
	for after < head.Version {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		records, err := s.log.ReadUpTo(d.ID(), after, head.Version, readBytes)
		if err != nil {
			return nil, err
		}
		if len(records) == 0 {
			break
		}
		for _, record := range records {
			w, err := writeOf(record, c)
			if err != nil {
				return nil, err
			}
			after = w.GetVersion()
			if req.Msg.GetActor() == "" || req.Msg.GetActor() == w.GetActor() {
				res.Writes = append(res.Writes, w)
			}
		}
	}
	slices.Reverse(res.Writes)
	return connect.NewResponse(res), nil
}

// traceOf returns the id of the trace of a record's request, or "".
func traceOf(r *replicationv1.CommitRecord) string {
	if id := requestid.TraceAt(r.GetTrace()); id != "" {
		return id
	}
	return audit.TraceIDOf(r.GetTraceParent())
}

// writeOf returns what a commit record says of who did what.
func writeOf(record []byte, c *catalog.Catalog) (*authv1.ListWritesResponse_Write, error) {
	var r replicationv1.CommitRecord
	if err := proto.Unmarshal(record, &r); err != nil {
		return nil, err
	}
	w := &authv1.ListWritesResponse_Write{
		Version: r.GetVersion(), Time: timestamppb.New(time.Unix(0, r.GetTimeUnixNanos())), Actor: r.GetActor(),
		TraceId: traceOf(&r), Schema: r.GetCatalog() != nil,
	}
	if at, ok := netip.AddrFromSlice(r.GetCallerAddress()); ok {
		w.Address = at.String()
	}
	for _, t := range r.GetTables() {
		name := ""
		for _, known := range c.Tables {
			if known.ID == t.GetTableId() {
				name = known.Name
			}
		}
		w.Tables = append(w.Tables, &authv1.ListWritesResponse_Table{Name: name, Rows: uint64(len(t.GetRows()))})
	}
	return w, nil
}
