package readpath

import (
	"context"
	"log/slog"
	"net/http"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/cockroachdb/pebble/v2/vfs"
	"go.uber.org/goleak"
	"google.golang.org/protobuf/types/known/durationpb"

	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/internal/bookmark"
	"github.com/nearside-dev/nearside/internal/catalog"
	"github.com/nearside-dev/nearside/internal/meshdb"
	"github.com/nearside-dev/nearside/internal/rowcodec"
	"github.com/nearside-dev/nearside/internal/rpcerr"
	"github.com/nearside-dev/nearside/internal/rpcheader"
	"github.com/nearside-dev/nearside/internal/value"
	"github.com/nearside-dev/nearside/sidecar/memory"
	"github.com/nearside-dev/nearside/sidecar/replica"
	"github.com/nearside-dev/nearside/sidecar/replica/replicatest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	here   = "eu-west-1"
	shopID = uint32(100)
)

var secret = []byte("0123456789abcdef")

// users (id INTEGER PRIMARY KEY, email, age), email unique, and an index on age.
func usersTable() *catalog.Table {
	t := replicatest.Table(10, "users", "id", "email", "age")
	t = replicatest.WithIndex(t, 20, "by_email", true, "email")
	return replicatest.WithIndex(t, 21, "by_age", false, "age")
}

func user(id int64, email string, age int64) rowcodec.Row {
	return replicatest.Row(id, value.Text(email), value.Integer(age))
}

// region is a read path over a real store, with a primary that tells what it was asked.
type region struct {
	t     testing.TB
	store *replica.Store
	path  *Path
	cache *memory.Cache
	codec *bookmark.Codec
	users *catalog.Table

	mesh, shop *replicatest.Primary
	primary    *primary
}

// newRegion returns a region with the database shop and users 1 to 5, of ages 31, 30, 31, 30, 31, all at version 1.
func newRegion(t testing.TB) *region { return newRegionWith(t, 0) }

// newRegionWith is newRegion with a memory of so many bytes; 0 is none.
func newRegionWith(t testing.TB, cacheBytes int64) *region {
	t.Helper()
	logger := slog.New(slog.DiscardHandler)
	store, err := replica.OpenStore("replica", replica.Options{FS: vfs.NewMem(), Logger: logger})
	if err != nil {
		t.Fatal(err)
	}
	codec, err := bookmark.New(secret)
	if err != nil {
		t.Fatal(err)
	}
	r := &region{
		t: t, store: store, codec: codec, users: usersTable(), primary: &primary{},
		mesh: replicatest.NewPrimary(), shop: replicatest.NewPrimary(),
	}
	if err := store.Adopt(replica.Identity{MeshID: [16]byte{1}, BookmarkKey: secret, PrimaryRegion: "us-east-1"}); err != nil {
		t.Fatal(err)
	}
	if cacheBytes > 0 {
		r.cache, err = memory.New(memory.Options{Bytes: cacheBytes, DatabasePercent: 100, SmallResult: 1 << 20, Stamps: store.Stamps()})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(r.cache.Close)
	}
	r.path, err = New(Options{
		Region: here, Store: store, Directory: NewDirectory(store, here), Primary: r.primary, Memory: r.cache, Logger: logger,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := store.Close(); err != nil {
			t.Error(err)
		}
	})
	r.apply(meshdb.DatabaseID, r.mesh.Commit(
		replicatest.Schema(replicatest.MeshDatabases, replicatest.MeshPlacements),
		replicatest.Put(replicatest.MeshDatabases, replicatest.MeshDatabase(shopID, "shop")),
	))
	rows := make([]rowcodec.Row, 5)
	for i := range rows {
		id := int64(i + 1)
		rows[i] = user(id, string(rune('a'+i))+"@x", 30+id%2)
	}
	r.apply(shopID, r.shop.Commit(replicatest.Schema(r.users), replicatest.Put(r.users, rows...)))
	return r
}

func (r *region) apply(database uint32, records ...[]byte) {
	r.t.Helper()
	if err := r.store.ApplyRecords(database, records); err != nil {
		r.t.Fatal(err)
	}
}

func (r *region) mark(database, epoch uint32, version uint64) string {
	return r.codec.Encode(bookmark.Bookmark{DatabaseID: database, Epoch: epoch, Version: version})
}

func keyOf(values ...value.Value) *datav1.Key { return &datav1.Key{Values: value.ToProtos(values)} }

func getUser(id int64) *datav1.GetRequest {
	return &datav1.GetRequest{Database: "shop", Table: "users", Key: keyOf(value.Integer(id))}
}

// get asks for user 1.
func (r *region) get(ctx context.Context, c *datav1.Consistency, header ...string) (*datav1.Answer, error) {
	h := http.Header{}
	for _, line := range header {
		h.Add(rpcheader.Bookmark, line)
	}
	req := getUser(1)
	req.Consistency = c
	res, err := r.path.Get(ctx, h, req)
	return res.GetAnswer(), err
}

func atLeast(mark string, wait time.Duration) *datav1.Consistency {
	return &datav1.Consistency{
		Level: datav1.Consistency_LEVEL_AT_LEAST, Bookmark: mark, MaxWait: durationpb.New(wait),
	}
}

// primary is the primary as package forward presents it.
type primary struct {
	asked int
	err   error
}

func (p *primary) answer() (*datav1.Answer, error) {
	p.asked++
	return &datav1.Answer{Region: here, Source: datav1.Source_SOURCE_PRIMARY, ServedByPrimary: true}, p.err
}

func (p *primary) Get(context.Context, *connect.Request[datav1.GetRequest]) (*connect.Response[datav1.GetResponse], error) {
	a, err := p.answer()
	return connect.NewResponse(&datav1.GetResponse{Answer: a}), err
}

func (p *primary) BatchGet(
	context.Context, *connect.Request[datav1.BatchGetRequest],
) (*connect.Response[datav1.BatchGetResponse], error) {
	a, err := p.answer()
	return connect.NewResponse(&datav1.BatchGetResponse{Answer: a}), err
}

func (p *primary) List(
	context.Context, *connect.Request[datav1.ListRequest],
) (*connect.Response[datav1.ListResponse], error) {
	a, err := p.answer()
	return connect.NewResponse(&datav1.ListResponse{Answer: a}), err
}

func wantReason(t *testing.T, err error, want rpcerr.Reason) *rpcerr.Error {
	t.Helper()
	e, ok := rpcerr.FromError(err)
	if !ok || e.Reason() != want {
		t.Fatalf("error is %v, want %v", err, want)
	}
	return e
}

func wantSource(t *testing.T, a *datav1.Answer, err error, want datav1.Source) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	if a.GetSource() != want {
		t.Fatalf("answered by %v, want %v", a.GetSource(), want)
	}
}
