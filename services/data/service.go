// Package data answers nearside.data.v1.DataService at a primary: it finds the database, checks how fresh the caller wants
// it, and passes work to the database's engine. Keyed reads are planned by internal/keyread and run as SQL here; a region's
// replica runs the same plans on its own copy.
package data

import (
	"context"
	"crypto/sha256"
	"fmt"
	"net/http"
	"time"

	"connectrpc.com/connect"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/protobuf/proto"

	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/gen/nearside/data/v1/datav1connect"
	"github.com/nearside-dev/nearside/internal/access"
	"github.com/nearside-dev/nearside/internal/bookmark"
	"github.com/nearside-dev/nearside/internal/identity"
	"github.com/nearside-dev/nearside/internal/meshdb"
	"github.com/nearside-dev/nearside/internal/rpcerr"
	"github.com/nearside-dev/nearside/internal/rpcheader"
	"github.com/nearside-dev/nearside/internal/sqlrun"
	"github.com/nearside-dev/nearside/internal/transactwire"
	"github.com/nearside-dev/nearside/services/data/changelog"
	"github.com/nearside-dev/nearside/services/data/engine"
	"github.com/nearside-dev/nearside/services/data/registry"
)

// MigrationTimeout is the time of a Migrate at the primary, which may have large tables to build anew.
const MigrationTimeout = 10 * time.Minute

// Service answers DataService.
type Service struct {
	// What is not there yet answers unimplemented, and Watch and WatchQuery, which are a region's: the log's tail has what rows were
	// before, and stamps say what changed.
	datav1connect.UnimplementedDataServiceHandler

	registry  *registry.Registry
	log       *changelog.Log
	bookmarks *bookmark.Codec
	region    string
	regions   []string      // region, as the values of a header
	exports   chan struct{} // a place for each export that runs
	refused   prometheus.Counter
	guard     *access.Guard
}

var _ datav1connect.DataServiceHandler = (*Service)(nil)

// New returns a Service for a primary in a region. The guard is asked where no interceptor asks it; nil lets everything through.
func New(r *registry.Registry, log *changelog.Log, bookmarks *bookmark.Codec, region string, guard *access.Guard) *Service {
	return &Service{registry: r, log: log, bookmarks: bookmarks, region: region, regions: []string{region}, exports: make(chan struct{}, maxExports), refused: refusedExports(), guard: guard}
}

// answer describes an answer of the primary.
func (s *Service) answer(db uint32, h changelog.Head) *datav1.Answer {
	return &datav1.Answer{
		Bookmark: s.bookmarks.Encode(bookmark.Bookmark{DatabaseID: db, Epoch: h.Epoch, Version: h.Version}),
		Region:   s.region, Source: datav1.Source_SOURCE_PRIMARY, ServedByPrimary: true,
	}
}

func commitAnswer(a *datav1.Answer, c *engine.Commit) *datav1.Answer {
	if c.Filtered {
		return a // how much was looked at tells of what is not shown
	}
	a.SqlMs = milliseconds(c.Elapsed)
	a.RowsRead, a.RowsWritten = c.RowsRead, c.RowsWritten
	return a
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

func respond[T any](msg *T, a *datav1.Answer) *connect.Response[T] {
	res := connect.NewResponse(msg)
	rpcheader.SetAnswer(res.Header(), a)
	return res
}

// writable finds a database that callers may write.
func (s *Service) writable(name string) (*registry.Database, error) {
	if name == meshdb.Name {
		return nil, rpcerr.New(datav1.ErrorReason_ERROR_REASON_STATEMENT_DENIED, "database %s is written by the mesh only", name).
			With("action", "write "+name)
	}
	return s.registry.Database(name)
}

var canonicalKey = http.CanonicalHeaderKey(rpcheader.IdempotencyKey)

// first returns a header's first value; name is in canonical form.
func first(h http.Header, name string) string {
	if values := h[name]; len(values) > 0 {
		return values[0]
	}
	return ""
}

// putsRequest is a request that transactwire.Parse has read: it is encoded without package proto, and without its key.
type putsRequest struct{ *datav1.TransactRequest }

// transaction makes the engine's transaction of a request.
func transaction(ctx context.Context, h http.Header, procedure, key string, req proto.Message, ops ...engine.Operation) (*engine.Transaction, error) {
	tx := &engine.Transaction{Operations: ops, Actor: identity.From(ctx).Actor()}
	header := first(h, canonicalKey)
	switch {
	case key == "":
		key = header
	case header != "" && header != key:
		return nil, rpcerr.InvalidField("idempotency_key", "differs from the header %s", rpcheader.IdempotencyKey)
	}
	if key == "" {
		return tx, nil
	}
	if len(key) > 255 {
		return nil, rpcerr.InvalidField("idempotency_key", "is longer than 255 bytes")
	}
	begin := append(append(make([]byte, 0, 1024), procedure...), 0)
	var encoded []byte
	if p, ok := req.(putsRequest); ok {
		encoded = transactwire.AppendRequest(begin, p.TransactRequest, "")
	} else {
		var err error
		if encoded, err = (proto.MarshalOptions{Deterministic: true}).MarshalAppend(begin, req); err != nil {
			return nil, fmt.Errorf("hash request: %w", err)
		}
	}
	tx.Key.Principal, tx.Key.Key = tx.Actor, key // nobody gets another one's answer
	tx.RequestHash = sha256.Sum256(encoded)
	return tx, nil
}

// Execute implements DataService.
func (s *Service) Execute(
	ctx context.Context, req *connect.Request[datav1.ExecuteRequest],
) (*connect.Response[datav1.ExecuteResponse], error) {
	ctx, cancel := context.WithTimeout(ctx, sqlrun.StatementTimeout)
	defer cancel()
	if mayOnlyRead(req.Msg.GetStatement().GetSql()) {
		res, ok, err := s.executeRead(ctx, req)
		if ok || err != nil {
			return res, err
		}
	}
	if err := s.guard.CheckWrite(ctx, req.Spec().Procedure, req.Msg.GetDatabase()); err != nil {
		return nil, err
	}
	db, err := s.writable(req.Msg.GetDatabase())
	if err != nil {
		return nil, err
	}
	hashed := proto.CloneOf(req.Msg)
	hashed.IdempotencyKey, hashed.Consistency = "", nil
	tx, err := transaction(ctx, req.Header(), req.Spec().Procedure, req.Msg.GetIdempotencyKey(), hashed,
		engine.StatementOperation(req.Msg.GetStatement()))
	if err != nil {
		return nil, err
	}
	c, err := db.Transact(ctx, tx)
	if err != nil {
		return nil, err
	}
	msg := &datav1.ExecuteResponse{
		Result: &datav1.ResultSet{}, Answer: commitAnswer(s.answer(db.ID(), c.Head), c), Replayed: c.Replayed,
	}
	if len(c.Results) > 0 {
		msg.Result = c.Results[0]
	}
	return respond(msg, msg.Answer), nil
}

// executeRead answers a statement that only reads; ok is false where it writes or does not compile for reading, which the
// writer will then say.
func (s *Service) executeRead(
	ctx context.Context, req *connect.Request[datav1.ExecuteRequest],
) (res *connect.Response[datav1.ExecuteResponse], ok bool, err error) {
	db, err := s.registry.Database(req.Msg.GetDatabase())
	if err != nil {
		return nil, false, err
	}
	msg := &datav1.ExecuteResponse{}
	err = db.View(ctx, func(v *engine.View) error {
		if ok = v.IsReadOnly(req.Msg.GetStatement().GetSql()); !ok {
			return nil
		}
		if err := s.checkFresh(db, v.Head(), req.Msg.GetConsistency(), req.Header()); err != nil {
			return err
		}
		msg.Result, msg.Answer, err = s.query(ctx, db, v, req.Msg.GetStatement())
		return err
	})
	if err != nil || !ok {
		return nil, false, err
	}
	return respond(msg, msg.Answer), true, nil
}

// Transact implements DataService.
func (s *Service) Transact(
	ctx context.Context, req *connect.Request[datav1.TransactRequest],
) (*connect.Response[datav1.TransactResponse], error) {
	msg, err := s.transact(ctx, req.Header(), req.Msg, false)
	if err != nil {
		return nil, err
	}
	return respond(msg, msg.Answer), nil
}

// transact runs a valid request. puts says that transactwire.Parse has read it.
func (s *Service) transact(
	ctx context.Context, header http.Header, req *datav1.TransactRequest, puts bool,
) (*datav1.TransactResponse, error) {
	if deadline, ok := ctx.Deadline(); !ok || time.Until(deadline) > sqlrun.StatementTimeout {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, sqlrun.StatementTimeout)
		defer cancel()
	}
	db, err := s.writable(req.GetDatabase())
	if err != nil {
		return nil, err
	}
	ops := make([]engine.Operation, len(req.GetOperations()))
	for i, o := range req.GetOperations() {
		if ops[i], err = engine.OperationOf(o); err != nil {
			return nil, err
		}
	}
	var hashed proto.Message = putsRequest{req}
	if !puts {
		hashed = &datav1.TransactRequest{
			Database: req.GetDatabase(), Operations: req.GetOperations(), DeferForeignKeys: req.GetDeferForeignKeys(),
			UncheckedForeignKeys: req.GetUncheckedForeignKeys(),
		}
	}
	// A repeat may come in a bundle, or alone after one.
	tx, err := transaction(ctx, header, datav1connect.DataServiceTransactProcedure, req.GetIdempotencyKey(), hashed, ops...)
	if err != nil {
		return nil, err
	}
	tx.DeferForeignKeys, tx.UncheckedForeignKeys = req.GetDeferForeignKeys(), req.GetUncheckedForeignKeys()
	s.restrict(ctx, tx, datav1connect.DataServiceTransactProcedure, req.GetDatabase())
	c, err := db.Transact(ctx, tx)
	if err != nil {
		return nil, err
	}
	return &datav1.TransactResponse{
		Results: c.Results, Answer: commitAnswer(s.answer(db.ID(), c.Head), c), Replayed: c.Replayed, Version: c.Version,
	}, nil
}

// restrict has a transaction see and change what its caller may.
func (s *Service) restrict(ctx context.Context, tx *engine.Transaction, procedure, database string) {
	if view := s.guard.View(ctx, procedure, access.RightWrite, database); view != nil {
		tx.View = view
	}
}

// BatchInsert implements DataService.
func (s *Service) BatchInsert(
	ctx context.Context, req *connect.Request[datav1.BatchInsertRequest],
) (*connect.Response[datav1.BatchInsertResponse], error) {
	ctx, cancel := context.WithTimeout(ctx, sqlrun.StatementTimeout)
	defer cancel()
	db, err := s.writable(req.Msg.GetDatabase())
	if err != nil {
		return nil, err
	}
	hashed := &datav1.BatchInsertRequest{
		Database: req.Msg.GetDatabase(), Table: req.Msg.GetTable(), Columns: req.Msg.GetColumns(), Rows: req.Msg.GetRows(),
		OnConflict: req.Msg.GetOnConflict(),
	}
	tx, err := transaction(ctx, req.Header(), req.Spec().Procedure, req.Msg.GetIdempotencyKey(), hashed,
		engine.InsertOperation(req.Msg))
	if err != nil {
		return nil, err
	}
	s.restrict(ctx, tx, req.Spec().Procedure, req.Msg.GetDatabase())
	c, err := db.Transact(ctx, tx)
	if err != nil {
		return nil, err
	}
	msg := &datav1.BatchInsertResponse{Answer: commitAnswer(s.answer(db.ID(), c.Head), c), Replayed: c.Replayed}
	if len(c.Results) > 0 {
		msg.RowsAffected = c.Results[0].GetRowsAffected()
	}
	return respond(msg, msg.Answer), nil
}
