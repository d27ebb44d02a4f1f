package callers_test

import (
	"context"
	"errors"
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

// The problem of the new enemy: a right that was taken before a secret was written is gone in each region before the secret can be read
// there. Rights and data are two databases, each with a log of its own; the version of _mesh in each record is what ties them. There
// are two guards: the primary sends a record after what it needs, and a region applies none before. Each of them alone is enough as long
// as the other one is right, so each has a test that fails without it.

// right is one that can be taken and given back.
type right struct {
	name       string
	take, give func()
}

// rights are all ways in which ann can lose the table items. They are taken at the primary.
func (w *world) rights() []right {
	ctx := context.Background()
	return []right{
		{"role", func() {
			if _, err := w.accounts(east, w.AdminToken()).RevokeRole(ctx, connect.NewRequest(&authv1.RevokeRoleRequest{
				Account: "ann", Grant: grant(authv1.Role_ROLE_READER),
			})); err != nil {
				w.t.Error(err)
			}
		}, func() {
			if _, err := w.accounts(east, w.AdminToken()).GrantRole(ctx, connect.NewRequest(&authv1.GrantRoleRequest{
				Account: "ann", Grant: grant(authv1.Role_ROLE_READER),
			})); err != nil {
				w.t.Error(err)
			}
		}},
		{"policy", func() { w.put("", "no-items", noItems) }, func() { w.drop(east, "no-items") }},
		{"rows", func() {
			w.put("", "no-items", `@unless_row("name == principal.id") forbid (principal, action, resource == Table::"shop/items") unless { principal in Role::"admin" };`)
		}, func() { w.drop(east, "no-items") }},
	}
}

// readers read the row of items all the while, in each way that there is: on the short ways and the long ones, from memory and the copy,
// in SQL, in lists and watches.
type readers struct {
	reads atomic.Int64
	seen  sync.Map // what somebody has read who may not

	stop chan struct{}
	all  sync.WaitGroup
}

func (r *readers) look(answer fmt.Stringer) {
	r.reads.Add(1)
	if text := answer.String(); strings.Contains(text, "secret-") {
		r.seen.Store(text, true)
	}
}

// saw returns a secret that somebody has read; "" is none.
func (r *readers) saw() (text string) {
	r.seen.Range(func(key, _ any) bool {
		text = key.(string)
		return false
	})
	return text
}

// end has them end, and reports what they have seen.
func (r *readers) end(t *testing.T) {
	t.Helper()
	close(r.stop)
	r.all.Wait()
	r.seen.Range(func(text, _ any) bool {
		t.Errorf("somebody who may not has read %s", text)
		return true
	})
}

// readAll begins to read in regions with a token.
func (w *world) readAll(token string, regions ...string) *readers {
	r := &readers{stop: make(chan struct{})}
	ctx := context.Background()
	key := &datav1.Key{Values: []*datav1.Value{integerOf(1)}}
	for _, region := range regions {
		data := w.data(region, token)
		for _, read := range []func(){
			func() {
				res, err := data.Get(ctx, connect.NewRequest(&datav1.GetRequest{Database: shop, Table: "items", Key: key}))
				if err == nil {
					r.look(res.Msg)
				}
			},
			func() {
				res, err := data.BatchGet(ctx, connect.NewRequest(&datav1.BatchGetRequest{Database: shop, Table: "items", Keys: []*datav1.Key{key}}))
				if err == nil {
					r.look(res.Msg)
				}
			},
			func() {
				res, err := data.List(ctx, connect.NewRequest(&datav1.ListRequest{Database: shop, Table: "items"}))
				if err == nil {
					r.look(res.Msg)
				}
			},
			func() {
				res, err := data.Query(ctx, connect.NewRequest(&datav1.QueryRequest{
					Database: shop, Statement: &datav1.Statement{Sql: "SELECT max(name) FROM items WHERE id = 1"},
				}))
				if err == nil {
					r.look(res.Msg)
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
					r.look(stream.Msg())
				}
				stream.Close()
			},
		} {
			r.all.Go(func() {
				for {
					select {
					case <-r.stop:
						return
					default:
						read()
					}
				}
			})
		}
	}
	return r
}

// someReads waits until the readers have read some more.
func (w *world) someReads(r *readers) {
	w.t.Helper()
	before := r.reads.Load()
	w.Eventually("somebody reads", func(context.Context) error {
		if n := r.reads.Load() - before; n < 20 {
			return fmt.Errorf("%d reads", n)
		}
		return nil
	})
}

// startWithLink starts a mesh whose region west finds the primary through a link.
func startWithLink(t *testing.T) (*world, *link) {
	t.Helper()
	var l *link
	w := start(t, meshtest.Options{Through: func(region, primaryAddr string) string {
		if region != west {
			return primaryAddr
		}
		if l == nil {
			l = newLink(t, primaryAddr)
		}
		return l.addr
	}})
	w.user(east, "ann", grant(authv1.Role_ROLE_READER))
	return w, l
}

// TestNewEnemy takes each right before a secret is written, with nothing in the way.
func TestNewEnemy(t *testing.T) {
	w, _ := startWithLink(t)
	rounds := 12
	if testing.Short() {
		rounds = 4
	}
	r := w.readAll(w.mustLogin(east, "ann").GetAccessToken(), east, west)
	rights := w.rights()
	for n := range rounds {
		right := rights[n%len(rights)]
		w.someReads(r)
		right.take()
		w.Exec("", shop, fmt.Sprintf("UPDATE items SET name = 'secret-%s-%d' WHERE id = 1", right.name, n))
		w.WaitSync(shop)
		w.Exec("", shop, "UPDATE items SET name = 'apple' WHERE id = 1")
		w.WaitSync(shop)
		right.give()
	}
	r.end(t)
	t.Logf("%d reads in %d rounds", r.reads.Load(), rounds)
}

// TestNewEnemyWhileRightsAreHeldBack: what takes the right does not come to the region, and the secret does. The region has to refuse
// it until it knows better.
func TestNewEnemyWhileRightsAreHeldBack(t *testing.T) {
	w, l := startWithLink(t)
	r := w.readAll(w.mustLogin(east, "ann").GetAccessToken(), west)
	for n, right := range w.rights() {
		w.someReads(r)
		secret := fmt.Sprintf("secret-%s-%d", right.name, n)
		passed, refused, release := l.holdRights(secret)
		right.take()
		w.Exec("", shop, fmt.Sprintf("UPDATE items SET name = '%s' WHERE id = 1", secret))
		w.Eventually("the secret comes to the region, which refuses it", func(context.Context) error {
			switch {
			case r.saw() != "", refused():
				return nil // either way it is decided
			case !passed():
				return errors.New("it has not come")
			default:
				return errors.New("it was not refused, and nobody reads it")
			}
		})
		w.someReads(r) // of what was there before
		release()
		w.WaitSync(shop)
		w.Exec("", shop, "UPDATE items SET name = 'apple' WHERE id = 1")
		w.WaitSync(shop)
		right.give()
		if r.saw() != "" {
			break
		}
	}
	r.end(t)
}

// TestNewEnemyRecordsFollowWhatTheyNeed: no record goes over the wire before what of _mesh it needs. The primary is held up while it sends,
// so that it finds a right that was taken and databases that were written after that at the same time: which of them it looks at first is
// left to chance, in each round anew.
func TestNewEnemyRecordsFollowWhatTheyNeed(t *testing.T) {
	const rounds, databases = 6, 8
	w, l := startWithLink(t)
	for n := range databases {
		w.Create(fmt.Sprint("db", n))
		w.Exec("", fmt.Sprint("db", n), "CREATE TABLE t (id INTEGER PRIMARY KEY)")
	}
	_, err := w.data("", w.AdminToken()).Execute(context.Background(), connect.NewRequest(&datav1.ExecuteRequest{
		Database: shop, Statement: &datav1.Statement{Sql: "CREATE TABLE large (id INTEGER PRIMARY KEY, bytes BLOB)"},
	}))
	if err != nil {
		t.Fatal(err)
	}
	for n := range databases {
		w.WaitSync(fmt.Sprint("db", n))
	}
	before, _ := l.order()
	for range rounds {
		goOn := l.pause()
		w.Exec("", shop, "INSERT INTO large (bytes) VALUES (randomblob(2000000))") // more than what is on its way at most
		w.put("", "no-items", noItems)
		for n := range databases {
			w.Exec("", fmt.Sprint("db", n), "INSERT INTO t VALUES (NULL)")
		}
		goOn()
		for n := range databases {
			w.WaitSync(fmt.Sprint("db", n))
		}
		w.drop("", "no-items")
	}
	needing, tooEarly := l.order()
	if tooEarly != "" {
		t.Errorf("came before what it needs: %.300s", tooEarly)
	}
	if needing < before+rounds*databases {
		t.Errorf("%d records needed more of _mesh than those before, want %d", needing-before, rounds*databases)
	}
}
