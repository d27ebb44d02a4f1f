package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"path/filepath"

	"connectrpc.com/connect"

	"github.com/nearside-dev/nearside/bench/internal/load"
	businessv1 "github.com/nearside-dev/nearside/gen/nearside/business/v1"
	"github.com/nearside-dev/nearside/gen/nearside/business/v1/businessv1connect"
	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/gen/nearside/data/v1/datav1connect"
	"github.com/nearside-dev/nearside/services/business"
)

// doorUsers is how many users are read again and again.
const doorUsers = 1000

const (
	doorGet     = "one user from memory: the data API's Get, Connect"
	doorGetUser = "one user from memory: GetUser, Connect"
	doorREST    = "one user from memory: GET /v1/users/{id}, REST"
	doorGraphQL = "one user from memory: user(id), GraphQL"
)

// measureDoors measures what it costs to ask for one user in other words than the data API's own: of a caller with a token and a
// role, in turn, in one region.
func (b *bench) measureDoors(ctx context.Context, _ uint64) error {
	if !b.wants(doorGet) && !b.wants(doorGetUser) && !b.wants(doorREST) && !b.wants(doorGraphQL) {
		return nil
	}
	region, primary, ids, err := b.doorsMesh(ctx)
	if err != nil {
		return err
	}
	pick := func(random *rand.Rand) string { return ids[random.IntN(len(ids))] }
	doors := []struct {
		name string
		call func(*load.Client, *rand.Rand) error
	}{
		{doorGet, func(c *load.Client, random *rand.Rand) error {
			return c.Call(datav1connect.DataServiceGetProcedure, &datav1.GetRequest{
				Database: business.Database, Table: "users", Key: &datav1.Key{Values: []*datav1.Value{text(pick(random))}},
			}, nil)
		}},
		{doorGetUser, func(c *load.Client, random *rand.Rand) error {
			return c.Call(businessv1connect.UserServiceGetUserProcedure, &businessv1.GetUserRequest{Id: pick(random)}, nil)
		}},
		{doorREST, func(c *load.Client, random *rand.Rand) error {
			_, err := c.Get("/v1/users/" + pick(random))
			return err
		}},
		{doorGraphQL, func(c *load.Client, random *rand.Rand) error {
			answer, err := c.Post("/graphql", "application/json", fmt.Appendf(nil,
				`{"query":"query ($id: ID!) { user(id: $id) { id name email createTime updateTime version } }","variables":{"id":%q}}`, pick(random)))
			if err == nil && len(answer) < 100 { // an error has the status 200 too
				err = fmt.Errorf("user(id): %s", answer)
			}
			return err
		}},
	}
	// Twice each: processor time drifts with what else the machine does.
	for range 2 {
		for _, d := range doors {
			if err := b.closed(ctx, measurement{name: d.name, servers: []*node{region}}, region, d.call); err != nil {
				return err
			}
		}
	}
	for _, n := range []*node{region, primary} {
		if err := b.stop(n); err != nil {
			return err
		}
	}
	return nil
}

// doorsMesh starts a primary, and a region with users and orders that has some users in memory.
func (b *bench) doorsMesh(ctx context.Context) (region, primary *node, ids []string, err error) {
	if primary, err = b.start(ctx, "doors-primary", "primary", "--token-lifetime", "1h"); err != nil {
		return nil, nil, nil, err
	}
	if err := primary.ready(ctx); err != nil {
		return nil, nil, nil, err
	}
	if primary.token, err = adminToken(filepath.Join(b.data, "doors-primary", "admin.json")); err != nil {
		return nil, nil, nil, err
	}
	data := datav1connect.NewDataServiceClient(http.DefaultClient, "http://"+primary.addr, connect.WithInterceptors(showing(primary.token)))
	if err := business.Setup(ctx, data); err != nil {
		return nil, nil, nil, err
	}
	region, err = b.start(ctx, "doors-region", "sidecar", "--region", "eu-west-1", "--primary", "http://"+primary.addr, "--business")
	if err != nil {
		return nil, nil, nil, err
	}
	region.token = primary.token
	if err := region.ready(ctx); err != nil {
		return nil, nil, nil, err
	}
	c, err := region.dial(ctx)
	if err != nil {
		return nil, nil, nil, err
	}
	defer c.Close()
	for i := range doorUsers {
		var res businessv1.CreateUserResponse
		err := c.Call(businessv1connect.UserServiceCreateUserProcedure, &businessv1.CreateUserRequest{
			Email: fmt.Sprintf("user%04d@example.org", i), Name: fmt.Sprintf("User %04d", i),
		}, &res)
		if err != nil {
			return nil, nil, nil, err
		}
		ids = append(ids, res.GetUser().GetId())
	}
	if region.token, err = logIn(ctx, region, business.Database); err != nil {
		return nil, nil, nil, err
	}
	return region, primary, ids, b.warmUsers(ctx, region, ids)
}

// warmUsers reads all users until the region has them in memory.
func (b *bench) warmUsers(ctx context.Context, region *node, ids []string) error {
	return region.await(ctx, "has the users in memory", func(ctx context.Context) error {
		c, err := region.dial(ctx)
		if err != nil {
			return err
		}
		defer c.Close()
		missed := 0
		for _, id := range ids {
			var res datav1.GetResponse
			err := c.Call(datav1connect.DataServiceGetProcedure, &datav1.GetRequest{
				Database: business.Database, Table: "users", Key: &datav1.Key{Values: []*datav1.Value{text(id)}},
			}, &res)
			if err != nil {
				return err
			}
			if res.GetRow() == nil || res.GetAnswer().GetSource() != datav1.Source_SOURCE_MEMORY {
				missed++
			}
		}
		if missed > 0 {
			return fmt.Errorf("%d of %d users are not there", missed, len(ids))
		}
		return nil
	})
}

// showing has each call show a token.
func showing(token string) connect.UnaryInterceptorFunc {
	return func(next connect.UnaryFunc) connect.UnaryFunc {
		return func(ctx context.Context, req connect.AnyRequest) (connect.AnyResponse, error) {
			req.Header().Set("Authorization", "Bearer "+token)
			return next(ctx, req)
		}
	}
}
