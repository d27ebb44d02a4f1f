package gateway

import (
	"context"
	"log/slog"
	"net/http"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/nearside-dev/nearside/gen/nearside/data/v1/datav1connect"
	"github.com/nearside-dev/nearside/internal/hotrpc"
	"github.com/nearside-dev/nearside/internal/rpcerr"
	"github.com/nearside-dev/nearside/internal/server"
	"github.com/nearside-dev/nearside/sidecar/forward"
	"github.com/nearside-dev/nearside/sidecar/readpath"
)

// MountHot puts before the general handler of DataService those of the methods that the region mostly answers at once.
func MountHot(
	mux *http.ServeMux, general http.Handler, path *readpath.Path, logger *slog.Logger, registerer prometheus.Registerer,
) error {
	for _, m := range []struct {
		procedure string
		method    hotrpc.Method
		large     bool
	}{
		{datav1connect.DataServiceGetProcedure, path.GetNow, false},
		{datav1connect.DataServiceBatchGetProcedure, path.BatchGetNow, true},
	} {
		observer, err := server.NewObserver(registerer, m.procedure)
		if err != nil {
			return err
		}
		mux.Handle(m.procedure, hotrpc.NewHandler(hotrpc.Options{
			Method: m.method, General: general, Logger: logger, Metrics: observer, Large: m.large,
		}))
	}
	return nil
}

// MountHotWrites puts a shorter way for short transactions before the general handler of DataService.
func MountHotWrites(
	mux *http.ServeMux, general http.Handler, primary *forward.Primary, logger *slog.Logger, registerer prometheus.Registerer,
) error {
	errs, err := rpcerr.NewInterceptor(logger)
	if err != nil {
		return err
	}
	observer, err := server.NewObserver(registerer, datav1connect.DataServiceTransactProcedure)
	if err != nil {
		return err
	}
	mux.Handle(datav1connect.DataServiceTransactProcedure, hotrpc.NewWriteHandler(hotrpc.WriteOptions{
		Method: func(ctx context.Context, header http.Header, msg []byte, a *hotrpc.Answer) error {
			return primary.TransactHot(ctx, errs, header, msg, a)
		},
		General: general, Metrics: observer, Procedure: datav1connect.DataServiceTransactProcedure,
		Errors: errs,
	}))
	return nil
}
