package business

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"connectrpc.com/connect"

	businessv1 "github.com/nearside-dev/nearside/gen/nearside/business/v1"
	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/internal/meshtest"
	"github.com/nearside-dev/nearside/internal/rpcerr"
	"github.com/nearside-dev/nearside/internal/rpcheader"
)

// run runs k until the test ends.
func (k *Keeper) run(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { k.Run(ctx) })
	t.Cleanup(func() {
		cancel()
		running.Wait()
	})
}

// TestDatabaseDeleted deletes the database of running services, which then begin anew in each region.
func TestDatabaseDeleted(t *testing.T) {
	var m *meshtest.Mesh
	logger := slog.New(slog.NewTextHandler(t.Output(), nil))
	keeper := NewKeeper(func(ctx context.Context) error { return Setup(ctx, m.Client("")) }, logger)
	m = meshtest.Start(t, meshtest.Options{Regions: regions, Mount: keeper.Mount, Logger: logger})
	keeper.run(t)
	mesh := make([]region, len(regions))
	for i, name := range regions {
		mesh[i] = region{name: name, url: m.URL(name), http: m.HTTP()}
	}
	create := func(r region, email string) error {
		_, err := r.users().CreateUser(t.Context(), connect.NewRequest(&businessv1.CreateUserRequest{Email: email, Name: "A"}))
		return err
	}
	for round, damage := range []func() error{
		func() error { return nil }, // it has not been made yet
		func() error {
			_, err := m.Client("").DeleteDatabase(t.Context(), connect.NewRequest(&datav1.DeleteDatabaseRequest{Name: Database}))
			return err
		},
		func() error { // by somebody who made another one of its name
			_, err := m.Client("").DeleteDatabase(t.Context(), connect.NewRequest(&datav1.DeleteDatabaseRequest{Name: Database}))
			_, err2 := m.Client("").CreateDatabase(t.Context(), connect.NewRequest(&datav1.CreateDatabaseRequest{Name: Database}))
			return errors.Join(err, err2)
		},
	} {
		if err := damage(); err != nil {
			t.Fatal(err)
		}
		m.Eventually("the first region writes", func(context.Context) error {
			err := create(mesh[0], "a@example.com")
			if e, ok := rpcerr.FromError(err); ok && e.Reason() == datav1.ErrorReason_ERROR_REASON_NOT_READY && e.RetryAfter() != keepEvery {
				t.Errorf("round %d: told to try again after %v: %v", round, e.RetryAfter(), err)
			}
			return err
		})
		for _, r := range mesh {
			m.Eventually(r.name+" has what is new and no more", func(ctx context.Context) error {
				res, err := r.users().ListUsers(ctx, connect.NewRequest(&businessv1.ListUsersRequest{}))
				switch {
				case err != nil:
					return err
				case len(res.Msg.GetUsers()) != 1:
					return errors.New("not one user")
				case res.Header().Get(rpcheader.Source) == "PRIMARY":
					return errors.New("the copy is not there yet")
				}
				return nil
			})
		}
	}
	m.CompareAll(Database)
}

// TestKeeperPauses counts how often the database is made while calls go on finding it gone.
func TestKeeperPauses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var made atomic.Int32
		k := NewKeeper(func(context.Context) error {
			if made.Add(1)%2 == 0 {
				return errors.New("no primary")
			}
			return nil
		}, slog.New(slog.DiscardHandler))
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() { k.Run(ctx); close(ended) }()
		for range 100 {
			k.missing()
			k.missing()
			time.Sleep(100 * time.Millisecond)
		}
		if n := made.Load(); n < 10 || n > 11 { // the last pause ends with them
			t.Errorf("made %d times in ten seconds", n)
		}
		time.Sleep(time.Minute)
		if n := made.Load(); n > 11 {
			t.Errorf("made %d times, with nobody asking", n)
		}
		cancel()
		<-ended
	})
	(*Keeper)(nil).missing() // of services that have none
}
