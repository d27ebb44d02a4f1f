package data

import (
	"context"

	"connectrpc.com/connect"

	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/internal/access"
	"github.com/nearside-dev/nearside/internal/keyread"
	"github.com/nearside-dev/nearside/internal/policy"
	"github.com/nearside-dev/nearside/internal/rowcodec"
	"github.com/nearside-dev/nearside/services/data/engine"
	"github.com/nearside-dev/nearside/services/data/registry"
)

// Get implements DataService.
func (s *Service) Get(
	ctx context.Context, req *connect.Request[datav1.GetRequest],
) (*connect.Response[datav1.GetResponse], error) {
	msg := &datav1.GetResponse{}
	filter, err := s.filter(ctx, req.Spec().Procedure, req.Msg)
	if err != nil {
		return nil, err
	}
	err = s.view(ctx, req.Msg.GetDatabase(), req.Msg.GetConsistency(), req.Header(),
		func(db *registry.Database, v *engine.View) error {
			plan, err := keyread.PlanGet(v.Catalog(), req.Msg.GetTable(), req.Msg.GetKey())
			if err != nil {
				return err
			}
			row, version, ok, err := v.Get(plan)
			if err != nil {
				return err
			}
			ok = ok && filter.Of(plan.Table).Has(row.Values)
			shape := keyread.NewShape(plan.Table)
			msg.Columns = shape.Columns
			if ok {
				msg.Row = shape.Row(row, version)
			}
			msg.Answer = s.readAnswer(db, v, engine.QueryStats{RowsRead: count(ok)})
			return nil
		})
	if err != nil {
		return nil, err
	}
	return respond(msg, msg.Answer), nil
}

// filter returns which rows of the table of a read by key its caller may see; nil is all.
func (s *Service) filter(ctx context.Context, procedure string, req interface {
	GetDatabase() string
	GetTable() string
},
) (*policy.Filter, error) {
	view := s.guard.View(ctx, procedure, access.RightRead, req.GetDatabase())
	if view == nil {
		return nil, nil //nolint:nilnil // as documented
	}
	return view.Table(req.GetTable())
}

func count(ok bool) uint64 {
	if ok {
		return 1
	}
	return 0
}

// BatchGet implements DataService.
func (s *Service) BatchGet(
	ctx context.Context, req *connect.Request[datav1.BatchGetRequest],
) (*connect.Response[datav1.BatchGetResponse], error) {
	var msg *datav1.BatchGetResponse
	filter, err := s.filter(ctx, req.Spec().Procedure, req.Msg)
	if err != nil {
		return nil, err
	}
	err = s.view(ctx, req.Msg.GetDatabase(), req.Msg.GetConsistency(), req.Header(),
		func(db *registry.Database, v *engine.View) error {
			plans, err := keyread.PlanBatchGet(v.Catalog(), req.Msg.GetTable(), req.Msg.GetKeys())
			if err != nil {
				return err
			}
			batch := keyread.NewBatch(ctx, keyread.NewShape(plans[0].Table), len(plans))
			found, visible := uint64(0), filter.Of(plans[0].Table)
			for i := range plans {
				row, version, ok, err := v.Get(&plans[i])
				if err != nil {
					return err
				}
				ok = ok && visible.Has(row.Values)
				if found += count(ok); !ok {
					batch.AddMissing()
				} else if err := batch.Add(row, version); err != nil {
					return err
				}
			}
			msg = batch.Response()
			msg.Answer = s.readAnswer(db, v, engine.QueryStats{RowsRead: found})
			return nil
		})
	if err != nil {
		return nil, err
	}
	return respond(msg, msg.Answer), nil
}

// List implements DataService.
func (s *Service) List(
	ctx context.Context, req *connect.Request[datav1.ListRequest],
) (*connect.Response[datav1.ListResponse], error) {
	var msg *datav1.ListResponse
	filter, err := s.filter(ctx, req.Spec().Procedure, req.Msg)
	if err != nil {
		return nil, err
	}
	err = s.view(ctx, req.Msg.GetDatabase(), req.Msg.GetConsistency(), req.Header(),
		func(db *registry.Database, v *engine.View) error {
			plan, err := keyread.PlanList(v.Catalog(), req.Msg)
			if err != nil {
				return err
			}
			page := keyread.NewPage(plan, keyread.NewShape(plan.Table))
			rows := uint64(0)
			err = v.List(plan, filter.Of(plan.Table), func(row rowcodec.Row, version uint64) bool {
				rows++
				return page.Add(row, version)
			})
			if err != nil {
				return err
			}
			if msg, err = page.Response(); err != nil {
				return err
			}
			msg.Answer = s.readAnswer(db, v, engine.QueryStats{RowsRead: rows})
			return nil
		})
	if err != nil {
		return nil, err
	}
	return respond(msg, msg.Answer), nil
}
