package server

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"runtime/debug"

	"connectrpc.com/connect"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/nearside-dev/nearside/internal/rpcerr"
)

// compressMinBytes is where answers begin to be worth compressing.
const compressMinBytes = 1024

// HandlerOptions returns the options of all Connect handlers of a listener: requests counted, validated and limited to
// DefaultMaxBodyBytes a message, errors mapped by package rpcerr, panics answered as internal errors and logged whole.
// registerer may be nil.
func HandlerOptions(logger *slog.Logger, registerer prometheus.Registerer) ([]connect.HandlerOption, error) {
	errs, err := rpcerr.NewInterceptor(logger)
	if err != nil {
		return nil, fmt.Errorf("make the error interceptor: %w", err)
	}
	interceptors := []connect.Interceptor{errs}
	if registerer != nil {
		metrics, err := newRPCMetrics(registerer)
		if err != nil {
			return nil, err
		}
		interceptors = []connect.Interceptor{metrics, errs}
	}
	options := []connect.HandlerOption{
		connect.WithInterceptors(interceptors...),
		// Inside the error interceptor, which logs the panic and hides it from the caller.
		connect.WithRecover(func(_ context.Context, _ connect.Spec, _ http.Header, p any) error {
			return fmt.Errorf("panic: %v\n%s", p, debug.Stack())
		}),
		connect.WithReadMaxBytes(DefaultMaxBodyBytes),
		connect.WithCompressMinBytes(compressMinBytes),
	}
	for _, c := range Compressions() {
		options = append(options, connect.WithCompression(c.Name, c.Decompressor, c.Compressor))
	}
	return options, nil
}
