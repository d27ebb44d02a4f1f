package readpath

import (
	"fmt"
	"math"
	"net/http"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"

	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/internal/catalog"
	"github.com/nearside-dev/nearside/internal/meshdb"
	"github.com/nearside-dev/nearside/internal/value"
	"github.com/nearside-dev/nearside/sidecar/replica/replicatest"
)

const (
	fromReplica = datav1.Source_SOURCE_REPLICA
	fromPrimary = datav1.Source_SOURCE_PRIMARY
)

func protoUser(id int64, email string, age int64) *datav1.Row {
	return &datav1.Row{Version: 1, Values: value.ToProtos([]value.Value{value.Integer(id), value.Text(email), value.Integer(age)})}
}

func TestGet(t *testing.T) {
	r := newRegion(t)
	res, err := r.path.Get(t.Context(), nil, getUser(2))
	if err != nil {
		t.Fatal(err)
	}
	want := &datav1.GetResponse{
		Columns: []*datav1.Column{{Name: "id", DeclaredType: "INTEGER"}, {Name: "email"}, {Name: "age"}},
		Row:     protoUser(2, "b@x", 30),
		Answer: &datav1.Answer{
			Bookmark: r.mark(shopID, 1, 1), Region: here, Source: fromReplica, RowsRead: 1,
			StalenessMs: math.MaxUint32, // nobody ever vouched for this copy
		},
	}
	if diff := cmp.Diff(want, res, protocmp.Transform(), protocmp.IgnoreFields(&datav1.Answer{}, "sql_ms")); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}

	byEmail := getUser(0)
	byEmail.Key = keyOf(value.Text("d@x"))
	byEmail.Key.Index = "by_email"
	res, err = r.path.Get(t.Context(), nil, byEmail)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(protoUser(4, "d@x", 30), res.Row, protocmp.Transform()); diff != "" {
		t.Errorf("by index (-want +got):\n%s", diff)
	}

	for _, key := range []*datav1.Key{keyOf(value.Integer(99)), keyOf(value.Null()), {Values: keyOf(value.Null()).Values, Index: "by_email"}} {
		req := getUser(0)
		req.Key = key
		res, err := r.path.Get(t.Context(), nil, req)
		if err != nil || res.Row != nil || res.Answer.RowsRead != 0 || res.Answer.Source != fromReplica {
			t.Errorf("key %v: %v, %v", key, res, err)
		}
	}
	if r.primary.asked != 0 {
		t.Errorf("the primary was asked %d times", r.primary.asked)
	}
}

func TestBatchGet(t *testing.T) {
	r := newRegion(t)
	byEmail := keyOf(value.Text("e@x"))
	byEmail.Index = "by_email"
	res, err := r.path.BatchGet(t.Context(), nil, &datav1.BatchGetRequest{
		Database: "shop", Table: "users",
		Keys: []*datav1.Key{keyOf(value.Integer(3)), keyOf(value.Integer(99)), byEmail, keyOf(value.Integer(3))},
	})
	if err != nil {
		t.Fatal(err)
	}
	want := []*datav1.BatchGetResponse_Result{
		{Row: protoUser(3, "c@x", 31)}, {}, {Row: protoUser(5, "e@x", 31)}, {Row: protoUser(3, "c@x", 31)},
	}
	if diff := cmp.Diff(want, res.Results, protocmp.Transform()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if res.Answer.RowsRead != 3 || res.Answer.Bookmark != r.mark(shopID, 1, 1) {
		t.Errorf("answer is %v", res.Answer)
	}
}

func TestList(t *testing.T) {
	r := newRegion(t)
	for _, tt := range []struct {
		name string
		req  *datav1.ListRequest
		want string
	}{
		{"by key", &datav1.ListRequest{}, "1 2 3 4 5"},
		{"by key backwards", &datav1.ListRequest{Reverse: true}, "5 4 3 2 1"},
		{"by index", &datav1.ListRequest{Index: "by_age"}, "2 4 1 3 5"},
		{"by index backwards", &datav1.ListRequest{Index: "by_age", Reverse: true}, "5 3 1 4 2"},
		{"prefix", &datav1.ListRequest{Index: "by_age", Prefix: keyOf(value.Integer(30)).Values}, "2 4"},
		{"range", &datav1.ListRequest{
			Start: &datav1.ListRequest_Bound{Values: keyOf(value.Integer(2)).Values, Exclusive: true},
			End:   &datav1.ListRequest_Bound{Values: keyOf(value.Integer(4)).Values},
		}, "3 4"},
		{"nothing", &datav1.ListRequest{Prefix: keyOf(value.Integer(9)).Values}, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for size := range uint32(4) {
				tt.req.Database, tt.req.Table, tt.req.PageSize, tt.req.PageToken = "shop", "users", size, ""
				var got string
				for pages := 0; pages == 0 || tt.req.PageToken != ""; pages++ {
					res, err := r.path.List(t.Context(), nil, tt.req)
					if err != nil {
						t.Fatal(err)
					}
					if res.Answer.Source != fromReplica || size > 0 && len(res.Rows) > int(size) {
						t.Fatalf("%d rows, %v", len(res.Rows), res.Answer)
					}
					for _, row := range res.Rows {
						if got != "" {
							got += " "
						}
						got += fmt.Sprint(row.Values[0].GetInteger())
					}
					tt.req.PageToken = res.NextPageToken
				}
				if got != tt.want {
					t.Errorf("pages of %d: %q, want %q", size, got, tt.want)
				}
			}
		})
	}
}

// What the copy cannot answer exactly is for the primary, in the same call.
func TestPassedOn(t *testing.T) {
	r := newRegion(t)
	virtual := replicatest.WithColumn(replicatest.Table(11, "virtual", "id"), "v", value.Null())
	virtual.Columns[1].Generated = catalog.GeneratedVirtual
	r.apply(shopID, r.shop.Commit(replicatest.Schema(r.users, virtual)))
	for name, change := range map[string]func(*datav1.GetRequest){
		"database":        func(g *datav1.GetRequest) { g.Database = "nope" },
		"table":           func(g *datav1.GetRequest) { g.Table = "nope" },
		"index":           func(g *datav1.GetRequest) { g.Key.Index = "nope" },
		"virtual columns": func(g *datav1.GetRequest) { g.Table = "virtual" },
		"primary's answer": func(g *datav1.GetRequest) {
			g.Consistency = &datav1.Consistency{Level: datav1.Consistency_LEVEL_PRIMARY}
		},
	} {
		req := getUser(1)
		change(req)
		res, err := r.path.Get(t.Context(), http.Header{}, req)
		if err != nil || res.Answer.Source != fromPrimary {
			t.Errorf("%s: %v, %v", name, res, err)
		}
	}
	if res, err := r.path.BatchGet(t.Context(), nil, &datav1.BatchGetRequest{Database: "nope"}); err != nil || res.Answer.Source != fromPrimary {
		t.Errorf("batch: %v, %v", res, err)
	}
	if res, err := r.path.List(t.Context(), nil, &datav1.ListRequest{Database: "shop", Table: "nope"}); err != nil || res.Answer.Source != fromPrimary {
		t.Errorf("list: %v, %v", res, err)
	}

	// A mistake is the caller's here as there.
	req := getUser(1)
	req.Key.Values = append(req.Key.Values, req.Key.Values...)
	asked := r.primary.asked
	_, err := r.path.Get(t.Context(), nil, req)
	wantReason(t, err, datav1.ErrorReason_ERROR_REASON_FIELD_INVALID)
	if r.primary.asked != asked {
		t.Error("the primary was asked about a mistake")
	}
}

// Before the mesh is known nothing can be answered here.
func TestDatabaseIsKnownByMesh(t *testing.T) {
	r := newRegion(t)
	a, err := r.get(t.Context(), nil)
	wantSource(t, a, err, fromReplica)

	// Deleted, and another made under its name, of which there is no copy yet.
	r.apply(meshdb.DatabaseID, r.mesh.Commit(
		replicatest.Delete(replicatest.MeshDatabases, replicatest.MeshDatabase(shopID, "shop")),
		replicatest.Put(replicatest.MeshDatabases, replicatest.MeshDatabase(shopID+1, "shop")),
	))
	a, err = r.get(t.Context(), nil)
	wantSource(t, a, err, fromPrimary)

	other := replicatest.NewPrimary()
	r.apply(shopID+1, other.Commit(replicatest.Schema(r.users), replicatest.Put(r.users, user(1, "new@x", 1))))
	a, err = r.get(t.Context(), nil)
	wantSource(t, a, err, fromReplica)
	if a.Bookmark != r.mark(shopID+1, 1, 1) {
		t.Error("answered from the deleted database")
	}
}

func TestDirectory(t *testing.T) {
	r := newRegion(t)
	regions := replicatest.Table(3, "regions", "rowid_", "name", "url", "is_primary")
	r.apply(meshdb.DatabaseID, r.mesh.Commit(
		replicatest.Schema(replicatest.MeshDatabases, replicatest.MeshPlacements, regions),
		replicatest.Put(replicatest.MeshDatabases, replicatest.MeshDatabase(101, "elsewhere"), replicatest.MeshDatabase(102, "both")),
		replicatest.Put(replicatest.MeshPlacements, replicatest.MeshPlacement(101, "us-east-1"),
			replicatest.MeshPlacement(102, "us-east-1"), replicatest.MeshPlacement(102, here)),
		replicatest.Put(regions, replicatest.Row(1, value.Text("us-east-1"), value.Text("http://u"), value.Integer(1)),
			replicatest.Row(2, value.Text(here), value.Text("http://e"), value.Integer(0))),
	))
	databases, err := r.path.directory.Databases()
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, d := range databases {
		got = append(got, fmt.Sprint(d.Name(), d.ID(), d.Placed()))
	}
	if diff := cmp.Diff([]string{"both102 true", "elsewhere101 false", "shop100 true"}, got); diff != "" {
		t.Error(diff)
	}
	all, err := r.path.directory.Regions()
	if err != nil {
		t.Fatal(err)
	}
	want := []meshdb.Region{{Name: here, URL: "http://e"}, {Name: "us-east-1", URL: "http://u", IsPrimary: true}}
	if diff := cmp.Diff(want, all); diff != "" {
		t.Error(diff)
	}
}

func BenchmarkGet(b *testing.B) {
	r := newRegion(b)
	req := getUser(3)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := r.path.Get(b.Context(), nil, req); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkGetAtLeast(b *testing.B) {
	r := newRegion(b)
	req := getUser(3)
	req.Consistency = atLeast(r.mark(shopID, 1, 1), 0)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := r.path.Get(b.Context(), nil, req); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkGetByIndex(b *testing.B) {
	r := newRegion(b)
	req := getUser(0)
	req.Key = keyOf(value.Text("c@x"))
	req.Key.Index = "by_email"
	b.ReportAllocs()
	for b.Loop() {
		if _, err := r.path.Get(b.Context(), nil, req); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkList20(b *testing.B) {
	r := newRegion(b)
	req := &datav1.ListRequest{Database: "shop", Table: "users", Index: "by_age", PageSize: 20}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := r.path.List(b.Context(), nil, req); err != nil {
			b.Fatal(err)
		}
	}
}
