package main

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"

	"github.com/nearside-dev/nearside/bench/internal/load"
	authv1 "github.com/nearside-dev/nearside/gen/nearside/auth/v1"
	"github.com/nearside-dev/nearside/gen/nearside/auth/v1/authv1connect"
	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/gen/nearside/data/v1/datav1connect"
)

const (
	getOfCaller = "Get by key, sidecar's memory, of a caller with a token, a role and a rate limit"
	getOfNobody = "Get by key, sidecar's memory, the same mesh without callers"
)

// measureCallers measures what it adds to a read from memory to know who reads: two meshes of the same rows, one that asks and
// one that does not, in turn.
func (b *bench) measureCallers(ctx context.Context, _ uint64) error {
	if !b.wants(getOfCaller) && !b.wants(getOfNobody) {
		return nil
	}
	asks, err := b.callersMesh(ctx, "callers")
	if err != nil {
		return err
	}
	plain, err := b.callersMesh(ctx, "no-callers", withoutCallers)
	if err != nil {
		return err
	}
	rows := min(b.rows, hotRows)
	get := func(c *load.Client, random *rand.Rand) error {
		key := &datav1.Key{Values: []*datav1.Value{integer(random.Int64N(int64(rows)))}}
		return c.Call(datav1connect.DataServiceGetProcedure, &datav1.GetRequest{Database: database, Table: table, Key: key}, nil)
	}
	// Twice each: processor time drifts with what else the machine does.
	for range 2 {
		if err := b.closed(ctx, measurement{name: getOfNobody, servers: plain[1:]}, plain[1], get); err != nil {
			return err
		}
		if err := b.closed(ctx, measurement{name: getOfCaller, servers: asks[1:]}, asks[1], get); err != nil {
			return err
		}
	}
	for _, n := range []*node{plain[1], plain[0], asks[1], asks[0]} {
		if err := b.stop(n); err != nil {
			return err
		}
	}
	return nil
}

// callersMesh starts a primary with the hot rows and a region that has them in memory. The region's calls are of a reader who
// has logged in, where anybody asks.
func (b *bench) callersMesh(ctx context.Context, name string, flags ...string) (nodes []*node, err error) {
	primary, region, err := b.pair(ctx, name, flags, flags)
	if err != nil {
		return nil, err
	}
	if primary.token != "" {
		if region.token, err = logIn(ctx, region, database); err != nil {
			return nil, err
		}
	}
	return []*node{primary, region}, b.warm(ctx, region)
}

// pair starts a primary with the hot rows and a region that has them. Calls of both are of an admin, where anybody asks.
func (b *bench) pair(ctx context.Context, name string, primaryFlags, regionFlags []string) (primary, region *node, err error) {
	primary, err = b.start(ctx, name+"-primary", append([]string{"primary", "--token-lifetime", "1h"}, primaryFlags...)...)
	if err != nil {
		return nil, nil, err
	}
	if err := primary.ready(ctx); err != nil {
		return nil, nil, err
	}
	if !slices.Contains(primaryFlags, withoutCallers) {
		if primary.token, err = adminToken(filepath.Join(b.data, name+"-primary", "admin.json")); err != nil {
			return nil, nil, err
		}
	}
	version, err := fill(ctx, primary, min(b.rows, hotRows))
	if err != nil {
		return nil, nil, err
	}
	region, err = b.start(ctx, name+"-region",
		append([]string{"sidecar", "--region", "eu-west-1", "--primary", "http://" + primary.addr}, regionFlags...)...)
	if err != nil {
		return nil, nil, err
	}
	region.token = primary.token
	return primary, region, region.caughtUp(ctx, version)
}

func adminToken(file string) (string, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return "", err
	}
	var admin struct {
		Token string `json:"token"`
	}
	if json.Unmarshal(text, &admin) != nil { // its error could quote the token
		return "", fmt.Errorf("%s has no token", file)
	}
	return admin.Token, nil
}

// logIn makes a reader of a database, whose calls are counted, and returns an access token of theirs.
func logIn(ctx context.Context, n *node, database string) (string, error) {
	c, err := n.dial(ctx)
	if err != nil {
		return "", err
	}
	defer c.Close()
	const name, password = "reader", "a password for a while"
	err = c.Call(authv1connect.AccountServiceCreateAccountProcedure, &authv1.CreateAccountRequest{
		Kind: authv1.AccountKind_ACCOUNT_KIND_USER, Name: name, Password: password,
		Grants: []*authv1.Grant{{Role: authv1.Role_ROLE_READER, Database: database}},
	}, nil)
	if err != nil {
		return "", err
	}
	err = c.Call(authv1connect.AccountServiceSetRateLimitProcedure, &authv1.SetRateLimitRequest{Limit: &authv1.RateLimit{
		Scope: authv1.RateLimitScope_RATE_LIMIT_SCOPE_IDENTITY, PerSecond: 1e6, Burst: 1e6,
	}}, nil)
	if err != nil {
		return "", err
	}
	var res authv1.AuthenticateResponse
	err = c.Call(authv1connect.AuthServiceAuthenticateProcedure, &authv1.AuthenticateRequest{
		Credential: &authv1.AuthenticateRequest_Password_{Password: &authv1.AuthenticateRequest_Password{Name: name, Password: password}},
	}, &res)
	return res.GetTokens().GetAccessToken(), err
}
