package business

import (
	"context"
	"log/slog"
	"net/http"
	"time"

	"connectrpc.com/connect"
)

// keepEvery is how often the database is made again at most, and after which time whoever found it gone may try again.
const keepEvery = time.Second

// Keeper has the services' database made again, empty, when a call finds that somebody has deleted it, or a table of it. It may be
// used by the services of several gateways.
type Keeper struct {
	wanted chan struct{}
	setup  func(context.Context) error
	logger *slog.Logger
}

// NewKeeper returns a Keeper. setup makes the database, as Setup does.
func NewKeeper(setup func(context.Context) error, logger *slog.Logger) *Keeper {
	return &Keeper{wanted: make(chan struct{}, 1), setup: setup, logger: logger}
}

// Mount is the function Mount for services that tell k.
func (k *Keeper) Mount(mux *http.ServeMux, gatewayURL string, opts ...connect.HandlerOption) error {
	return mount(mux, gatewayURL, k, opts)
}

// Run keeps the database until ctx ends.
func (k *Keeper) Run(ctx context.Context) {
	pause := time.NewTimer(0)
	defer pause.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-pause.C:
		}
		select {
		case <-ctx.Done():
			return
		case <-k.wanted:
		}
		switch err := k.setup(ctx); {
		case ctx.Err() != nil:
			return
		case err != nil:
			k.logger.WarnContext(ctx, "database not made again", slog.String("database", Database), slog.Any("error", err))
		default:
			k.logger.InfoContext(ctx, "database was missing and is there again", slog.String("database", Database))
		}
		pause.Reset(keepEvery)
	}
}

// missing says that the database is not as the services need it. It does not wait.
func (k *Keeper) missing() {
	if k == nil {
		return
	}
	select {
	case k.wanted <- struct{}{}:
	default: // it is wanted already
	}
}
