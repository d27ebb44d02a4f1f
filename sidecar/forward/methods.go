package forward

import (
	"context"
	"errors"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"

	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/internal/rpcheader"
)

// CreateDatabase implements datav1connect.DataServiceHandler.
func (p *Primary) CreateDatabase(
	ctx context.Context, req *connect.Request[datav1.CreateDatabaseRequest],
) (*connect.Response[datav1.CreateDatabaseResponse], error) {
	e := writes
	if req.Msg.GetIfNotExists() {
		e = repeatable
	}
	return unary(ctx, p.newCall("CreateDatabase", e, req.Header()), req.Msg, p.client.CreateDatabase)
}

// ListDatabases implements datav1connect.DataServiceHandler.
func (p *Primary) ListDatabases(
	ctx context.Context, req *connect.Request[datav1.ListDatabasesRequest],
) (*connect.Response[datav1.ListDatabasesResponse], error) {
	return unary(ctx, p.newCall("ListDatabases", reads, req.Header()), req.Msg, p.client.ListDatabases)
}

// GetDatabase implements datav1connect.DataServiceHandler.
func (p *Primary) GetDatabase(
	ctx context.Context, req *connect.Request[datav1.GetDatabaseRequest],
) (*connect.Response[datav1.GetDatabaseResponse], error) {
	return unary(ctx, p.newCall("GetDatabase", reads, req.Header()), req.Msg, p.client.GetDatabase)
}

// DeleteDatabase implements datav1connect.DataServiceHandler.
func (p *Primary) DeleteDatabase(
	ctx context.Context, req *connect.Request[datav1.DeleteDatabaseRequest],
) (*connect.Response[datav1.DeleteDatabaseResponse], error) {
	return unary(ctx, p.newCall("DeleteDatabase", writes, req.Header()), req.Msg, p.client.DeleteDatabase)
}

// SetPlacement implements datav1connect.DataServiceHandler.
func (p *Primary) SetPlacement(
	ctx context.Context, req *connect.Request[datav1.SetPlacementRequest],
) (*connect.Response[datav1.SetPlacementResponse], error) {
	return unary(ctx, p.newCall("SetPlacement", repeatable, req.Header()), req.Msg, p.client.SetPlacement)
}

// Execute implements datav1connect.DataServiceHandler.
func (p *Primary) Execute(
	ctx context.Context, req *connect.Request[datav1.ExecuteRequest],
) (*connect.Response[datav1.ExecuteResponse], error) {
	c := p.newKeyedCall("Execute", req.Header(), req.Msg.GetIdempotencyKey())
	return unary(ctx, c, req.Msg, p.client.Execute)
}

// Query implements datav1connect.DataServiceHandler.
func (p *Primary) Query(
	ctx context.Context, req *connect.Request[datav1.QueryRequest],
) (*connect.Response[datav1.QueryResponse], error) {
	return unary(ctx, p.newCall("Query", reads, req.Header()), req.Msg, p.client.Query)
}

// Transact implements datav1connect.DataServiceHandler.
func (p *Primary) Transact(
	ctx context.Context, req *connect.Request[datav1.TransactRequest],
) (*connect.Response[datav1.TransactResponse], error) {
	c := p.newKeyedCall("Transact", req.Header(), req.Msg.GetIdempotencyKey())
	c.named(ctx)
	if !bundleable(c, req.Msg, proto.Size(req.Msg)) {
		return unary(ctx, c, req.Msg, p.client.Transact)
	}
	msg, err := p.transact(ctx, c, req.Msg, nil)
	if err != nil {
		return nil, err
	}
	res := connect.NewResponse(msg)
	rpcheader.SetAnswer(res.Header(), msg.GetAnswer())
	return res, nil
}

// transact passes a transaction. encoded is the request where the caller has it, to be kept.
func (p *Primary) transact(
	ctx context.Context, c *call, request *datav1.TransactRequest, encoded []byte,
) (msg *datav1.TransactResponse, err error) {
	if err = p.slots.admit(p.region, "calls"); err == nil {
		msg, err = c.transact(ctx, request, encoded)
		p.slots.release()
	}
	p.metrics.outcome(c.method, err)
	if err != nil {
		return nil, err
	}
	p.rewrite(msg)
	return msg, nil
}

// transact makes a first attempt in a bundle, and what has to follow it alone.
func (c *call) transact(
	ctx context.Context, request *datav1.TransactRequest, encoded []byte,
) (msg *datav1.TransactResponse, err error) {
	l := c.primary.limitsOf(ctx)
	if msg, err = c.inBundle(ctx, l, request, encoded); err == nil {
		return msg, nil
	}
	if errors.Is(err, errAlone) {
		err = nil
	}
	err = c.attempts(ctx, l, err, func(ctx context.Context) error {
		c.located(ctx)
		alone := connect.NewRequest(request)
		copyHeader(alone.Header(), c.header)
		res, err := c.primary.client.Transact(traced(ctx), alone)
		if err == nil {
			msg = res.Msg
		}
		return err
	})
	return msg, err
}

// BatchInsert implements datav1connect.DataServiceHandler.
func (p *Primary) BatchInsert(
	ctx context.Context, req *connect.Request[datav1.BatchInsertRequest],
) (*connect.Response[datav1.BatchInsertResponse], error) {
	c := p.newKeyedCall("BatchInsert", req.Header(), req.Msg.GetIdempotencyKey())
	return unary(ctx, c, req.Msg, p.client.BatchInsert)
}

// Get implements datav1connect.DataServiceHandler.
func (p *Primary) Get(
	ctx context.Context, req *connect.Request[datav1.GetRequest],
) (*connect.Response[datav1.GetResponse], error) {
	return unary(ctx, p.newCall("Get", reads, req.Header()), req.Msg, p.client.Get)
}

// BatchGet implements datav1connect.DataServiceHandler.
func (p *Primary) BatchGet(
	ctx context.Context, req *connect.Request[datav1.BatchGetRequest],
) (*connect.Response[datav1.BatchGetResponse], error) {
	return unary(ctx, p.newCall("BatchGet", reads, req.Header()), req.Msg, p.client.BatchGet)
}

// List implements datav1connect.DataServiceHandler.
func (p *Primary) List(
	ctx context.Context, req *connect.Request[datav1.ListRequest],
) (*connect.Response[datav1.ListResponse], error) {
	return unary(ctx, p.newCall("List", reads, req.Header()), req.Msg, p.client.List)
}

// Migrate implements datav1connect.DataServiceHandler.
func (p *Primary) Migrate(
	ctx context.Context, req *connect.Request[datav1.MigrateRequest],
) (*connect.Response[datav1.MigrateResponse], error) {
	return unary(ctx, p.newCall("Migrate", repeatable, req.Header()), req.Msg, p.client.Migrate)
}

// ListMigrations implements datav1connect.DataServiceHandler.
func (p *Primary) ListMigrations(
	ctx context.Context, req *connect.Request[datav1.ListMigrationsRequest],
) (*connect.Response[datav1.ListMigrationsResponse], error) {
	return unary(ctx, p.newCall("ListMigrations", reads, req.Header()), req.Msg, p.client.ListMigrations)
}
