package data

import (
	"context"
	"fmt"
	"net/http"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/protobuf/proto"

	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/gen/nearside/data/v1/datav1connect"
	"github.com/nearside-dev/nearside/internal/hotrpc"
	"github.com/nearside-dev/nearside/internal/rpcerr"
	"github.com/nearside-dev/nearside/internal/rpcheader"
	"github.com/nearside-dev/nearside/internal/server"
)

// maxHotOperations bounds the answer of a hot transaction: some 20 bytes for each.
const maxHotOperations = 16

// MountHot puts a shorter way for short transactions before the general handler of DataService.
func (s *Service) MountHot(
	mux *http.ServeMux, general http.Handler, errs *rpcerr.Interceptor, registerer prometheus.Registerer,
) error {
	observer, err := server.NewObserver(registerer, datav1connect.DataServiceTransactProcedure)
	if err != nil {
		return err
	}
	mux.Handle(datav1connect.DataServiceTransactProcedure, hotrpc.NewWriteHandler(hotrpc.WriteOptions{
		Method: func(ctx context.Context, header http.Header, msg []byte, a *hotrpc.Answer) error {
			return s.transactHot(ctx, errs, header, msg, a)
		},
		General: general, Metrics: observer, Procedure: datav1connect.DataServiceTransactProcedure, Errors: errs,
	}))
	return nil
}

var sourcePrimary = []string{rpcheader.SourceName(datav1.Source_SOURCE_PRIMARY)}

// transactHot is Transact as a hotrpc.WriteMethod: it passes what is not valid, and SQL, which may answer much.
func (s *Service) transactHot(
	ctx context.Context, errs *rpcerr.Interceptor, header http.Header, msg []byte, a *hotrpc.Answer,
) error {
	req := new(datav1.TransactRequest)
	if proto.Unmarshal(msg, req) != nil || len(req.GetOperations()) > maxHotOperations {
		return hotrpc.ErrPass
	}
	for _, o := range req.GetOperations() {
		if o.GetStatement() != nil {
			return hotrpc.ErrPass
		}
	}
	if errs.Check(req) != nil {
		return hotrpc.ErrPass
	}
	res, err := s.transact(ctx, header, req)
	if err != nil {
		return err
	}
	if a.Message, err = (proto.MarshalOptions{}).MarshalAppend(a.Message, res); err != nil {
		return fmt.Errorf("encode answer: %w", err)
	}
	a.Bookmark, a.Region, a.Source = []string{res.GetAnswer().GetBookmark()}, s.regions, sourcePrimary
	return nil
}
