package callers_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"connectrpc.com/connect"

	authv1 "github.com/nearside-dev/nearside/gen/nearside/auth/v1"
	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/internal/meshtest"
)

// TestNewEnemy: a right that was taken before a secret was written is gone in each region before the secret can be read there. Rights
// and data are two databases, each with a log of its own; the version of _mesh in each record is what ties them. Readers go on all the
// while, on the short ways and the long ones, from memory and the copy, in SQL and in lists.
func TestNewEnemy(t *testing.T) {
	w := start(t, meshtest.Options{})
	ctx := context.Background()
	w.user(west, "ann", grant(authv1.Role_ROLE_READER))
	ann := w.mustLogin(west, "ann").GetAccessToken()
	w.Exec("", shop, "CREATE TABLE mine (id INTEGER PRIMARY KEY, owner TEXT, name TEXT)")
	w.WaitSync(shop)
	rounds := 12
	if testing.Short() {
		rounds = 4
	}
	takes := []struct {
		name       string
		take, give func()
	}{
		{"role", func() {
			if _, err := w.accounts("us-east-1", w.AdminToken()).RevokeRole(ctx, connect.NewRequest(&authv1.RevokeRoleRequest{
				Account: "ann", Grant: grant(authv1.Role_ROLE_READER),
			})); err != nil {
				t.Error(err)
			}
		}, func() {
			if _, err := w.accounts(west, w.AdminToken()).GrantRole(ctx, connect.NewRequest(&authv1.GrantRoleRequest{
				Account: "ann", Grant: grant(authv1.Role_ROLE_READER),
			})); err != nil {
				t.Error(err)
			}
		}},
		{"policy", func() { w.put("", "no-items", noItems) }, func() { w.drop(west, "no-items") }},
		{"rows", func() {
			w.put("", "no-items", `@unless_row("name == principal.id") forbid (principal, action, resource == Table::"shop/items") unless { principal in Role::"admin" };`)
		}, func() { w.drop(west, "no-items") }},
	}
	var reads, round atomic.Int64
	var seen sync.Map // the secrets that somebody has read who may not
	look := func(answer fmt.Stringer, err error) {
		reads.Add(1)
		if err == nil && strings.Contains(answer.String(), "secret-") {
			seen.Store(answer.String(), round.Load())
		}
	}
	key := &datav1.Key{Values: []*datav1.Value{integerOf(1)}}
	stop := make(chan struct{})
	var readers sync.WaitGroup
	for _, region := range []string{east, west} {
		data := w.data(region, ann)
		for _, read := range []func(){
			func() {
				res, err := data.Get(ctx, connect.NewRequest(&datav1.GetRequest{Database: shop, Table: "items", Key: key}))
				if err == nil {
					look(res.Msg, nil)
				}
			},
			func() {
				res, err := data.BatchGet(ctx, connect.NewRequest(&datav1.BatchGetRequest{Database: shop, Table: "items", Keys: []*datav1.Key{key}}))
				if err == nil {
					look(res.Msg, nil)
				}
			},
			func() {
				res, err := data.List(ctx, connect.NewRequest(&datav1.ListRequest{Database: shop, Table: "items"}))
				if err == nil {
					look(res.Msg, nil)
				}
			},
			func() {
				res, err := data.Query(ctx, connect.NewRequest(&datav1.QueryRequest{
					Database: shop, Statement: &datav1.Statement{Sql: "SELECT max(name) FROM items WHERE id = 1"},
				}))
				if err == nil {
					look(res.Msg, nil)
				}
			},
			func() {
				ctx, cancel := context.WithTimeout(ctx, time.Second)
				defer cancel()
				stream, err := data.Watch(ctx, connect.NewRequest(&datav1.WatchRequest{Database: shop, Table: "items"}))
				if err != nil {
					return
				}
				for stream.Receive() {
					look(stream.Msg(), nil)
				}
				stream.Close()
			},
		} {
			readers.Go(func() {
				for {
					select {
					case <-stop:
						return
					default:
						read()
					}
				}
			})
		}
	}
	for n := range rounds {
		c := takes[n%len(takes)]
		round.Store(int64(n))
		before := reads.Load()
		w.Eventually("somebody reads", func(context.Context) error {
			if reads.Load() < before+20 {
				return fmt.Errorf("%d reads", reads.Load()-before)
			}
			return nil
		})
		c.take()
		w.Exec("", shop, fmt.Sprintf("UPDATE items SET name = 'secret-%d' WHERE id = 1", n))
		w.WaitSync(shop)
		w.Exec("", shop, "UPDATE items SET name = 'apple' WHERE id = 1")
		w.WaitSync(shop)
		c.give()
	}
	close(stop)
	readers.Wait()
	seen.Range(func(answer, n any) bool {
		t.Errorf("round %v, %s: %s", n, takes[n.(int64)%int64(len(takes))].name, answer)
		return true
	})
	t.Logf("%d reads in %d rounds", reads.Load(), rounds)
}
