package gateway

import (
	"context"
	"log/slog"
	"net/http"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/nearside-dev/nearside/gen/nearside/data/v1/datav1connect"
	"github.com/nearside-dev/nearside/internal/access"
	"github.com/nearside-dev/nearside/internal/hotrpc"
	"github.com/nearside-dev/nearside/internal/rpcerr"
	"github.com/nearside-dev/nearside/internal/server"
	"github.com/nearside-dev/nearside/sidecar/forward"
	"github.com/nearside-dev/nearside/sidecar/readpath"
)

// MountHot puts before the general handler of DataService those of the methods that the region mostly answers at once, and
// adds them to short.
func MountHot(
	mux *http.ServeMux, short map[string]access.ShortHandler, general http.Handler, path *readpath.Path, logger *slog.Logger,
	registerer prometheus.Registerer,
) error {
	for _, m := range []struct {
		procedure string
		method    hotrpc.Method
		large     bool
	}{
		{datav1connect.DataServiceGetProcedure, path.GetNow, false},
		{datav1connect.DataServiceBatchGetProcedure, path.BatchGetNow, true},
		{datav1connect.DataServiceQueryProcedure, path.QueryNow, false},
	} {
		observer, err := server.NewObserver(registerer, m.procedure)
		if err != nil {
			return err
		}
		h := hotrpc.NewHandler(hotrpc.Options{
			Method: m.method, General: general, Logger: logger, Metrics: observer, Large: m.large,
		})
		mux.Handle(m.procedure, h)
		short[m.procedure] = h
	}
	return nil
}

// MountHotWrites puts a shorter way for short transactions before the general handler of DataService, and adds it to short.
func MountHotWrites(
	mux *http.ServeMux, short map[string]access.ShortHandler, general http.Handler, primary *forward.Primary, guard *access.Guard,
	logger *slog.Logger, registerer prometheus.Registerer,
) error {
	errs, err := rpcerr.NewInterceptor(logger)
	if err != nil {
		return err
	}
	observer, err := server.NewObserver(registerer, datav1connect.DataServiceTransactProcedure)
	if err != nil {
		return err
	}
	h := hotrpc.NewWriteHandler(hotrpc.WriteOptions{
		Method: func(ctx context.Context, header http.Header, msg []byte, a *hotrpc.Answer) error {
			return primary.TransactHot(ctx, errs, guard, header, msg, a)
		},
		General: general, Metrics: observer, Procedure: datav1connect.DataServiceTransactProcedure,
		Errors: errs,
	})
	mux.Handle(datav1connect.DataServiceTransactProcedure, h)
	short[datav1connect.DataServiceTransactProcedure] = h
	return nil
}
