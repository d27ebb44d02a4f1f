package edgesql

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/internal/catalog"
	"github.com/nearside-dev/nearside/internal/sqlrun"
	"github.com/nearside-dev/nearside/internal/value"
	"github.com/nearside-dev/nearside/sidecar/replica/replicatest"
)

// settle waits for what is made in the background.
func (r *region) settle() {
	r.engine.images.builder <- struct{}{}
	<-r.engine.images.builder
}

// counted is a region whose engine's images are counted.
type counted struct {
	*region

	registry *prometheus.Registry
}

func newCounted(tb testing.TB, o Options) counted {
	tb.Helper()
	registry := prometheus.NewRegistry()
	o.Registerer = registry
	return counted{newRegion(tb, o), registry}
}

// images returns how often something happened to images.
func (r counted) images(event string) (n float64) {
	r.tb.Helper()
	families, err := r.registry.Gather()
	if err != nil {
		r.tb.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			if f.GetName() == "nearside_edge_sql_images_total" && m.GetLabel()[0].GetValue() == event {
				n += m.GetCounter().GetValue()
			}
		}
	}
	return n
}

// things is a table with all kinds of values and some indexes.
func things() *catalog.Table {
	t := replicatest.Table(10, "things", "id", "name", "size", "any")
	t.Columns[1].DeclaredType, t.Columns[1].Affinity = "TEXT", catalog.AffinityText
	t.Columns[2].DeclaredType, t.Columns[2].Affinity = "INTEGER", catalog.AffinityInteger
	t = replicatest.WithIndex(t, 20, "by_name", false, "name")
	t = replicatest.WithIndex(t, 21, "by_size", false, "size", "any")
	t.Indexes[0].Parts[0].Collation = catalog.CollationNoCase
	t.Indexes[1].Parts[0].Desc = true
	return t
}

func randomThing(r *rand.Rand) replicatest.Change {
	some := value.Null()
	switch r.IntN(5) {
	case 0:
		some = value.Integer(pick[int64](r, 0, 1, -1, 5, 1<<53+1, math.MaxInt64, math.MinInt64))
	case 1:
		some = value.Real(pick[float64](r, 0, 1, -0.5, 1e300, math.Copysign(0, -1)))
	case 2:
		some = value.Text(pick(r, "", "a", "A", "b\x00c", "5"))
	case 3:
		some = value.Blob([]byte(pick(r, "", "a", "\x00")))
	}
	size := value.Integer(int64(r.IntN(5)))
	if r.IntN(4) == 0 {
		size = value.Null()
	}
	id := int64(r.IntN(200)) - 50
	if r.IntN(10) == 0 {
		id = pick[int64](r, math.MinInt64, math.MaxInt64, 1<<53+1)
	}
	row := replicatest.Row(id, value.Text(pick(r, "ann", "Ann", "bob", "carl", "")), size, some)
	if r.IntN(4) == 0 {
		return replicatest.Delete(things(), row)
	}
	return replicatest.Put(things(), row)
}

var imageQueries = []string{
	"SELECT * FROM things ORDER BY id", "SELECT * FROM things ORDER BY id DESC LIMIT 7", "SELECT * FROM things WHERE id = %d",
	"SELECT id, name FROM things WHERE id BETWEEN %d AND 60", "SELECT count(*), sum(size), max(id) FROM things",
	"SELECT id, typeof(any), any FROM things WHERE name = 'ANN' COLLATE NOCASE", "SELECT any, id FROM things WHERE size = %d %% 5",
	"SELECT id FROM things WHERE size > 1 AND size <= 3 ORDER BY size, any, id", "SELECT id FROM things WHERE size IS NULL",
	"SELECT size, count(*), min(any) FROM things GROUP BY size", "SELECT a.id, b.id FROM things a JOIN things b ON b.id = a.size",
	"SELECT a.id, b.id FROM things a JOIN things b ON b.size = a.size AND b.any = a.any",
	"SELECT a.id, b.id FROM things a JOIN things b ON b.any = a.any", "SELECT rowid FROM things WHERE name > 'b'",
	"SELECT id FROM things WHERE id IN (1, 2, 3, %d, 9223372036854775807)", "SELECT id FROM things ORDER BY size DESC, any DESC, id DESC",
	"SELECT DISTINCT size FROM things ORDER BY size", "SELECT DISTINCT size FROM things ORDER BY size DESC", "SELECT DISTINCT size FROM things",
	"SELECT DISTINCT size FROM things WHERE size + %d > 3", "SELECT DISTINCT size, any FROM things ORDER BY size DESC, any",
	"SELECT DISTINCT name FROM things", "SELECT id FROM things WHERE id IN (SELECT size FROM things)",
	"SELECT %d IN (SELECT size FROM things), %d NOT IN (SELECT size FROM things WHERE size IS NOT NULL)",
}

// Answers from images are those of a snapshot, whatever changes in between.
func TestImages(t *testing.T) {
	with := newCounted(t, Options{MaxImages: 1 << 20, MaxIdle: 2})
	without, err := New(Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := without.Close(); err != nil {
			t.Error(err)
		}
	}()
	r := rand.New(rand.NewPCG(1, 1))
	with.commit(replicatest.Schema(things(), replicatest.Table(11, "other", "id")))
	fromImage := uint64(0)
	for range 25 {
		var changes []replicatest.Change
		for range 1 + r.IntN(20) {
			changes = append(changes, randomThing(r))
		}
		with.commit(changes...)
		for range 25 {
			if r.IntN(20) == 0 { // a change of another table leaves the image as it is
				with.commit(replicatest.Put(replicatest.Table(11, "other", "id"), replicatest.Row(int64(r.IntN(9)))))
			}
			sql := pick(r, imageQueries...)
			if strings.Contains(sql, "%d") {
				sql = strings.ReplaceAll(sql, "%d", strconv.Itoa(r.IntN(200)-50))
				sql = strings.ReplaceAll(sql, "%%", "%")
			}
			got, n := with.rows(t, with.engine, sql)
			want, _ := with.rows(t, without, sql)
			if !strings.Contains(sql, "ORDER BY") {
				slices.Sort(got)
				slices.Sort(want)
			}
			if !slices.Equal(got, want) {
				t.Fatalf("%s:\n%q, want\n%q", sql, got, want)
			}
			fromImage += n
			if r.IntN(3) == 0 {
				with.settle()
			}
		}
	}
	if fromImage == 0 || with.images(imageMade) < 5 || with.images(imageFailed) > 0 {
		t.Errorf("%d statements from images, %v made, %v failed", fromImage, with.images(imageMade), with.images(imageFailed))
	}
}

// rows returns an answer's rows, and 1 if the engine has an image of the first table.
func (r *region) rows(tb testing.TB, e *Engine, sql string) (rows []string, image uint64) {
	tb.Helper()
	db, _ := r.store.Database(shopID)
	snap, err := db.Snapshot()
	if err != nil {
		tb.Fatal(err)
	}
	var sink sqlrun.Collector
	_, err = e.Query(context.Background(), shopID, snap, &datav1.Statement{Sql: sql}, &sink)
	if err = errors.Join(err, snap.Close()); err != nil {
		tb.Fatalf("%s: %v", sql, err)
	}
	for _, row := range sink.Result.GetRows() {
		rows = append(rows, row.String())
	}
	if e.images != nil {
		e.images.mu.Lock()
		defer e.images.mu.Unlock()
		if len(e.images.held) > 0 {
			image = 1
		}
	}
	return rows, image
}

func TestImageMemory(t *testing.T) {
	const limit = 40 << 10
	r := newCounted(t, Options{MaxImages: limit, MaxIdle: 1})
	var tables []*catalog.Table
	for i := range uint32(5) {
		tables = append(tables, replicatest.Table(10+i, fmt.Sprintf("t%d", i), "id", "v"))
	}
	large := replicatest.Table(20, "large", "id", "v")
	changes := []replicatest.Change{replicatest.Schema(append(slices.Clone(tables), large)...)}
	for id := range int64(500) {
		for _, table := range tables {
			changes = append(changes, replicatest.Put(table, replicatest.Row(id, value.Integer(id))))
		}
		changes = append(changes, replicatest.Put(large, replicatest.Row(id, value.Blob(make([]byte, 100)))))
	}
	r.commit(changes...)
	ask := func(sql, want string) {
		t.Helper()
		for range 4 {
			if got, err := r.query(t.Context(), sql); err != nil || got != want {
				t.Fatalf("%s: %q, %v", sql, got, err)
			}
			r.settle()
		}
	}
	for _, table := range tables {
		ask("SELECT sum(v) FROM "+table.Name, "124750")
	}
	if r.images(imageMade) != 5 || r.images(imageEvicted) == 0 {
		t.Errorf("%v made, %v evicted", r.images(imageMade), r.images(imageEvicted))
	}
	ask("SELECT sum(length(v)) FROM large", "50000")
	if r.images(imageTooLarge) == 0 || r.images(imageMade) != 5 {
		t.Errorf("%v too large, %v made", r.images(imageTooLarge), r.images(imageMade))
	}
	sum := int64(0)
	for reads := range r.engine.images.held {
		sum += reads.image.Load().size
	}
	if sum == 0 || sum > limit || sum != r.engine.images.bytes {
		t.Errorf("%d bytes of images, %d counted", sum, r.engine.images.bytes)
	}
	// A change of the table is the end of its image; another table's is not.
	held := len(r.engine.images.held)
	r.commit(replicatest.Put(tables[4], replicatest.Row(1, value.Integer(0))))
	ask("SELECT v FROM t4 WHERE id = 1", "0")
	if n := len(r.engine.images.held); n != held-1 {
		t.Errorf("%d images, had %d", n, held)
	}
	if err := r.engine.Forget(shopID); err != nil || len(r.engine.images.held) > 0 || r.engine.images.bytes != 0 {
		t.Errorf("%d images of %d bytes of a database that was forgotten; %v", len(r.engine.images.held), r.engine.images.bytes, err)
	}
}

// TestDistinctSkips reads of an order's equal values one each.
func TestDistinctSkips(t *testing.T) {
	r := newRegion(t, Options{MaxImages: 1 << 20})
	r.commit(replicatest.Schema(things()))
	var changes []replicatest.Change
	for id := range int64(1000) {
		changes = append(changes, replicatest.Put(things(), replicatest.Row(id, value.Text("x"), value.Integer(id%4), value.Null())))
	}
	r.commit(changes...)
	for _, sql := range []string{
		"SELECT DISTINCT size FROM things", "SELECT DISTINCT size FROM things ORDER BY size",
		"SELECT count(*) FROM (SELECT 1 WHERE 7 IN (SELECT size FROM things))",
	} {
		for range 20 { // until the image is there
			r.rows(t, r.engine, sql)
			r.settle()
		}
		db, _ := r.store.Database(shopID)
		snap, err := db.Snapshot()
		if err != nil {
			t.Fatal(err)
		}
		stats, err := r.engine.Query(t.Context(), shopID, snap, &datav1.Statement{Sql: sql}, &sqlrun.Collector{})
		if err = errors.Join(err, snap.Close()); err != nil {
			t.Fatal(err)
		}
		if stats.RowsRead > 4 {
			t.Errorf("%s: read %d rows for 4 values", sql, stats.RowsRead)
		}
	}
}
