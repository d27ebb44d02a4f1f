package data

import (
	"context"
	"fmt"
	"net/http"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/protobuf/proto"

	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/gen/nearside/data/v1/datav1connect"
	"github.com/nearside-dev/nearside/internal/access"
	"github.com/nearside-dev/nearside/internal/hotrpc"
	"github.com/nearside-dev/nearside/internal/rpcerr"
	"github.com/nearside-dev/nearside/internal/rpcheader"
	"github.com/nearside-dev/nearside/internal/server"
	"github.com/nearside-dev/nearside/internal/transactwire"
)

// maxHotOperations bounds the answer of a hot transaction: some 20 bytes for each.
const maxHotOperations = 16

// MountHot puts a shorter way for short transactions before the general handler of DataService, and adds it to short.
func (s *Service) MountHot(
	mux *http.ServeMux, short map[string]access.ShortHandler, general http.Handler, errs *rpcerr.Interceptor,
	registerer prometheus.Registerer,
) error {
	observer, err := server.NewObserver(registerer, datav1connect.DataServiceTransactProcedure)
	if err != nil {
		return err
	}
	h := hotrpc.NewWriteHandler(hotrpc.WriteOptions{
		Method: func(ctx context.Context, header http.Header, msg []byte, a *hotrpc.Answer) error {
			return s.transactHot(ctx, errs, header, msg, a)
		},
		General: general, Metrics: observer, Procedure: datav1connect.DataServiceTransactProcedure, Errors: errs,
	})
	mux.Handle(datav1connect.DataServiceTransactProcedure, h)
	short[datav1connect.DataServiceTransactProcedure] = h
	return nil
}

var sourcePrimary = []string{rpcheader.SourceName(datav1.Source_SOURCE_PRIMARY)}

// parseTransact reads a request; it is nil for one that is none. puts says that it is a message of package transactwire.
func parseTransact(encoded []byte) (req *datav1.TransactRequest, puts bool) {
	if req = transactwire.Parse(encoded); req != nil {
		return req, true
	}
	req = new(datav1.TransactRequest)
	if proto.Unmarshal(encoded, req) != nil {
		return nil, false
	}
	return req, false
}

// transactHot is Transact as a hotrpc.WriteMethod: it passes what is not valid, and SQL, which may answer much.
func (s *Service) transactHot(
	ctx context.Context, errs *rpcerr.Interceptor, header http.Header, msg []byte, a *hotrpc.Answer,
) error {
	req, puts := parseTransact(msg)
	if req == nil || len(req.GetOperations()) > maxHotOperations {
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
	if err := s.guard.Check(ctx, datav1connect.DataServiceTransactProcedure, req); err != nil {
		return err
	}
	res, err := s.transact(ctx, header, req, puts)
	if err != nil {
		return err
	}
	if a.Message, err = (proto.MarshalOptions{}).MarshalAppend(a.Message, res); err != nil {
		return fmt.Errorf("encode answer: %w", err)
	}
	a.Bookmark, a.Region, a.Source = []string{res.GetAnswer().GetBookmark()}, s.regions, sourcePrimary
	return nil
}
