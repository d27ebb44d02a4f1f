package edgesql

import (
	"errors"
	"strings"
	"testing"

	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/internal/catalog"
	"github.com/nearside-dev/nearside/internal/sqlrun"
	"github.com/nearside-dev/nearside/sidecar/replica/replicatest"
)

// observed is a Sink that takes what is known of a statement.
type observed struct {
	sqlrun.Collector

	compiled Compiled
}

func (o *observed) Compiled(c Compiled) { o.compiled = c }

// What a statement reads is what its answer depends on, however it gets there.
func TestCompiled(t *testing.T) {
	r := newRegion(t, Options{})
	a, b, c := replicatest.Table(10, "a", "id", "x"), replicatest.Table(11, "b", "id", "y"), replicatest.Table(12, "c", "id", "z")
	large, small := replicatest.Table(13, "É", "id"), replicatest.Table(14, "é", "id") // two names to SQLite
	view := catalog.Object{Type: "view", Name: "v", SQL: "CREATE VIEW v AS SELECT x FROM a WHERE EXISTS (SELECT 1 FROM b)"}
	r.commit(replicatest.SchemaOf(&catalog.Catalog{Tables: []*catalog.Table{a, b, c, large, small}, Objects: []catalog.Object{view}}))
	for sql, want := range map[string]string{
		"SELECT 1":               "",
		"VALUES (1), (2)":        "",
		"SELECT x FROM a":        "a",
		"SELECT 1 FROM a":        "a",
		"SELECT count(*) FROM a": "a",
		`SELECT id FROM "É"`:     "É",
		"SELECT a.x FROM a LEFT JOIN b ON b.id = a.id": "a b",
		"SELECT * FROM v":                                  "a b",
		"SELECT count(*) FROM v":                           "a b",
		"SELECT 1 WHERE 1 IN (SELECT id FROM c)":           "c",
		"SELECT (SELECT max(z) FROM c) FROM A":             "a c",
		"SELECT id FROM a UNION SELECT id FROM c":          "a c",
		"WITH w AS (SELECT * FROM v) SELECT * FROM w":      "a b",
		"WITH w AS (SELECT * FROM v) SELECT 1 FROM c":      "c",
		"SELECT x FROM a WHERE x = lower(upper('q'))":      "a",
		"SELECT sum(x) OVER (ORDER BY id) FROM a":          "a",
		"SELECT group_concat(x), avg(id) FROM a":           "a",
		"SELECT json_extract('{}', '$.a'), '{}' -> '$'":    "",
		"SELECT value FROM json_each('[1]'), b":            "b",
		"SELECT iif(x, 1, 2), coalesce(x, 1) FROM a":       "a",
		"SELECT x LIKE 'a%', x GLOB 'b*' FROM a":           "a",
		"SELECT printf('%d', id), quote(x) FROM a":         "a",
		"SELECT random()":                                  "volatile",
		"SELECT RANDOM() FROM a":                           "a volatile",
		"SELECT hex(randomblob(4))":                        "volatile",
		"SELECT current_timestamp":                         "volatile",
		"SELECT CURRENT_DATE":                              "volatile",
		"SELECT current_time, x FROM a":                    "a volatile",
		"SELECT date()":                                    "volatile",
		"SELECT datetime('now')":                           "volatile",
		"SELECT strftime('%s', x) FROM a":                  "a volatile",
		"SELECT unixepoch(x) FROM a":                       "a volatile",
		"SELECT julianday('now')":                          "volatile",
		"SELECT time('now')":                               "volatile",
		"SELECT timediff('now', x) FROM a":                 "a volatile",
		"SELECT x FROM a ORDER BY random()":                "a volatile",
		"SELECT x FROM a WHERE id = abs(random()) % 3":     "a volatile",
		"WITH w AS (SELECT random() AS r) SELECT r FROM w": "volatile",
		"SELECT sqlite_version()":                          "volatile",
	} {
		for range 2 { // compiled, and kept
			db, _ := r.store.Database(shopID)
			snap, err := db.Snapshot()
			if err != nil {
				t.Fatal(err)
			}
			var sink observed
			if _, err := r.engine.Query(t.Context(), shopID, snap, &datav1.Statement{Sql: sql}, &sink); err != nil {
				t.Errorf("%s: %v", sql, err)
			}
			var got []string
			for _, table := range sink.compiled.Tables {
				got = append(got, table.Name)
			}
			if sink.compiled.Volatile {
				got = append(got, "volatile")
			}
			if got := strings.Join(got, " "); got != want {
				t.Errorf("%s: %q, want %q", sql, got, want)
			}
			if err := errors.Join(snap.Close()); err != nil {
				t.Fatal(err)
			}
		}
	}
}
