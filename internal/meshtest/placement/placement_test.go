package placement_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"

	"github.com/nearside-dev/nearside/client"
	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/internal/meshtest"
	"github.com/nearside-dev/nearside/internal/rpcerr"
)

// fill makes the tables people and orders, with all there can be around the first, and rows, of which each has its marker.
func fill(m *meshtest.Mesh) {
	for _, sql := range []string{
		"CREATE TABLE orders (id INTEGER PRIMARY KEY, person INT, note TEXT DEFAULT '" + public + "')",
		"CREATE TABLE people (id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT DEFAULT '" + secret + "-default' CHECK (name <> '" + secret + "-check'))",
		"CREATE INDEX people_some ON people (name) WHERE name <> '" + secret + "-predicate'",
		"CREATE INDEX people_name ON people (name)",
		"CREATE TABLE log (id INTEGER PRIMARY KEY, text TEXT)",
		"CREATE TRIGGER noted AFTER INSERT ON people BEGIN INSERT INTO log (text) SELECT '" + public + "' WHERE NEW.name <> '" + secret + "-trigger'; END",
		"CREATE TRIGGER ordered AFTER INSERT ON orders WHEN NEW.id = 77 BEGIN INSERT INTO people (name) VALUES ('" + secret + "-ordered'); END",
		"CREATE VIEW named AS SELECT name, '" + secret + "-view' AS v FROM people",
		"CREATE VIEW twice AS SELECT *, '" + secret + "-twice' AS w FROM named",
		"ALTER TABLE people ADD COLUMN more TEXT DEFAULT '" + secret + "-added'",
	} {
		m.Exec("", db, sql)
	}
	for i := range 20 {
		m.Exec(south, db, fmt.Sprintf("INSERT INTO people (name) VALUES ('%s row %d')", secret, i))
		m.Exec(west, db, fmt.Sprintf("INSERT INTO orders (person, note) VALUES (%d, '%s row %d')", i+1, public, i))
	}
	m.Exec(south, db, "UPDATE people SET name = name || ' changed' WHERE id % 3 = 0")
	m.Exec(south, db, "DELETE FROM people WHERE id = 20")
	m.Exec(south, db, "INSERT INTO orders (id, person) VALUES (77, 1)")
}

// TestTableIsWhereItMayBe limits a table before it is made, and finds nothing of it elsewhere.
func TestTableIsWhereItMayBe(t *testing.T) {
	m := start(t)
	m.Create(db)
	place(t, m, "PEOPLE", west)
	fill(m)
	mark := m.Exec("", db, "INSERT INTO orders (person, note) VALUES (3, 'last')").GetAnswer().GetBookmark()
	m.WaitSync(db) // a region that is later than a read may wait asks the primary

	for _, test := range []struct {
		sql    string
		source map[string]datav1.Source // by region
	}{
		{"SELECT count(*), min(note) FROM orders", map[string]datav1.Source{
			east: datav1.Source_SOURCE_REPLICA, west: datav1.Source_SOURCE_REPLICA, south: datav1.Source_SOURCE_REPLICA,
		}},
		{"SELECT * FROM people ORDER BY id", map[string]datav1.Source{
			east: datav1.Source_SOURCE_PRIMARY, west: datav1.Source_SOURCE_REPLICA, south: datav1.Source_SOURCE_PRIMARY,
		}},
		{"SELECT p.name, o.note FROM orders o JOIN people p ON p.id = o.person ORDER BY o.id", map[string]datav1.Source{
			east: datav1.Source_SOURCE_PRIMARY, west: datav1.Source_SOURCE_REPLICA, south: datav1.Source_SOURCE_PRIMARY,
		}},
		{"SELECT * FROM twice ORDER BY name", map[string]datav1.Source{
			east: datav1.Source_SOURCE_PRIMARY, west: datav1.Source_SOURCE_REPLICA, south: datav1.Source_SOURCE_PRIMARY,
		}},
		{"SELECT name, sql FROM sqlite_schema WHERE tbl_name = 'people' ORDER BY name", map[string]datav1.Source{
			east: datav1.Source_SOURCE_PRIMARY, west: datav1.Source_SOURCE_REPLICA, south: datav1.Source_SOURCE_PRIMARY,
		}},
	} {
		want, _ := query(t, m, "", test.sql, mark)
		if strings.Contains(test.sql, "people") && !strings.Contains(want, secret) {
			t.Fatalf("%s: %s", test.sql, want)
		}
		for region, source := range test.source {
			if got, by := query(t, m, region, test.sql, mark); got != want || by != source && (by != datav1.Source_SOURCE_MEMORY || source != datav1.Source_SOURCE_REPLICA) {
				t.Errorf("%s: %s: answered by %v, want %v: %s", region, test.sql, by, source, got)
			}
		}
	}
	readAround(t, m)
	if n := memoryBytes(t, m, south); n > 0 {
		before := n
		for range 20 {
			get(t, m, south, "people", 1)
		}
		if n := memoryBytes(t, m, south); n > before {
			t.Errorf("memory took in %d bytes", n-before)
		}
	}
	verify(t, m)
	for _, region := range []string{east, west, south} {
		s, err := meshtest.Status(t.Context(), m.HTTP(), m.URL(region))
		if err != nil {
			t.Fatal(err)
		}
		if got := strings.Join(s.GetDatabases()[0].GetWithheldTables(), " "); (got == "people") != (region != west) {
			t.Errorf("%s: withheld are %q", region, got)
		}
	}
	for range 2 { // from the log, then from what was written
		writeOut(m, east, west, south)
		for _, region := range []string{east, south} {
			if left := holders(t, m.RegionDir(region), secret); len(left) > 0 {
				t.Errorf("%s has it in %v", region, left)
			}
			if len(holders(t, m.RegionDir(region), public)) == 0 {
				t.Errorf("the search finds nothing of the other tables in %s", region)
			}
		}
		if len(holders(t, m.RegionDir(west), secret)) == 0 {
			t.Errorf("the search finds nothing in %s", west)
		}
		m.Exec(south, db, "INSERT INTO people (name) VALUES ('"+secret+" again')")
		m.WaitSync(db)
	}
	verify(t, m)
}

// readAround reads a table in a region that may not hold it in all ways there are.
func readAround(t *testing.T, m *meshtest.Mesh) {
	t.Helper()
	ctx := context.Background()
	client := m.Client(south)
	if got := get(t, m, south, "people", 1); got.GetAnswer().GetSource() != datav1.Source_SOURCE_PRIMARY ||
		!strings.HasPrefix(got.GetRow().GetValues()[1].GetText(), secret) {
		t.Errorf("get: %v", got)
	}
	key := func(id int64) *datav1.Key {
		return &datav1.Key{Values: []*datav1.Value{{Kind: &datav1.Value_Integer{Integer: id}}}}
	}
	batch, err := client.BatchGet(ctx, connect.NewRequest(&datav1.BatchGetRequest{
		Database: db, Table: "people", Keys: []*datav1.Key{key(1), key(2)},
	}))
	if err != nil || batch.Msg.GetAnswer().GetSource() != datav1.Source_SOURCE_PRIMARY || len(batch.Msg.GetResults()) != 2 {
		t.Errorf("batch get: %v %v", batch, err)
	}
	list := &datav1.ListRequest{Database: db, Table: "people", PageSize: 7}
	rows := 0
	for {
		page, err := client.List(ctx, connect.NewRequest(list))
		if err != nil || page.Msg.GetAnswer().GetSource() != datav1.Source_SOURCE_PRIMARY {
			t.Fatalf("list: %v", err)
		}
		rows += len(page.Msg.GetRows())
		if list.PageToken = page.Msg.GetNextPageToken(); list.PageToken == "" {
			break
		}
	}
	if rows != 20 {
		t.Errorf("list has %d rows", rows)
	}
	stream, err := client.QueryStream(ctx, connect.NewRequest(&datav1.QueryStreamRequest{
		Database: db, Statement: &datav1.Statement{Sql: "SELECT name FROM people"},
	}))
	if err != nil {
		t.Fatal(err)
	}
	for stream.Receive() {
		if a := stream.Msg().GetAnswer(); a != nil && a.GetSource() != datav1.Source_SOURCE_PRIMARY {
			t.Errorf("stream: %v", a)
		}
	}
	if err := stream.Close(); err != nil {
		t.Error(err)
	}
}

// TestRestrictWhileRunning limits a table that all regions have and read, and allows it again.
func TestRestrictWhileRunning(t *testing.T) {
	m := start(t)
	m.Create(db)
	fill(m)
	m.WaitSync(db)
	writeOut(m, south)
	if len(holders(t, m.RegionDir(south), secret)) == 0 {
		t.Fatal("the search finds nothing")
	}
	for i := range int64(19) {
		get(t, m, south, "people", i+1)
		get(t, m, south, "people", i+1)
	}
	m.Eventually("rows are in memory", func(context.Context) error {
		if get(t, m, south, "people", 1).GetAnswer().GetSource() != datav1.Source_SOURCE_MEMORY {
			return fmt.Errorf("memory has %d bytes", memoryBytes(t, m, south))
		}
		return nil
	})
	for round := range 2 {
		place(t, m, "people", west)
		m.Exec(south, db, fmt.Sprintf("INSERT INTO people (name) VALUES ('%s of round %d')", secret, round))
		awaitSource(t, m, south, "people", 1, false)
		if n := memoryBytes(t, m, south); n != 0 {
			t.Errorf("%d bytes are in memory", n)
		}
		noneOnDisk(t, m, south)
		noneOnDisk(t, m, east)
		if got := get(t, m, west, "people", 1).GetAnswer().GetSource(); got == datav1.Source_SOURCE_PRIMARY {
			t.Errorf("%s answers from %v", west, got)
		}
		verify(t, m)
		writeOut(m, south)
		noneOnDisk(t, m, south)

		place(t, m, "people")
		awaitSource(t, m, south, "people", 1, true)
		awaitSource(t, m, east, "people", 1, true)
		m.Exec(south, db, fmt.Sprintf("INSERT INTO people (name) VALUES ('%s after round %d')", secret, round))
		m.CompareAll(db)
		verify(t, m)
	}
}

// TestRestrictWhileAway limits a table while a region is away, and another while the primary is about to be.
func TestRestrictWhileAway(t *testing.T) {
	m := start(t)
	m.Create(db)
	fill(m)
	m.WaitSync(db)
	m.StopSidecar(south)
	place(t, m, "people", west)
	m.Exec("", db, "INSERT INTO people (name) VALUES ('"+secret+" meanwhile')")
	m.StopPrimary()
	m.StartPrimary()
	m.StartSidecar(south)
	m.WaitReady()
	awaitSource(t, m, south, "people", 1, false)
	noneOnDisk(t, m, south)
	noneOnDisk(t, m, east)

	// A table that is dropped while the region is away, and whose name nobody remembers.
	m.Exec("", db, "DROP TRIGGER ordered")
	m.WaitSync(db)
	m.StopSidecar(south)
	m.Exec("", db, "INSERT INTO people (name) VALUES ('"+secret+" before the drop')")
	m.Exec("", db, "DROP TABLE people")
	m.Exec("", db, "INSERT INTO orders (person, note) VALUES (1, '"+public+" after the drop')")
	m.StartSidecar(south)
	m.WaitReady()
	m.WaitSync(db)
	noneOnDisk(t, m, south)
	m.Exec("", db, "DROP VIEW twice")
	m.Exec("", db, "DROP VIEW named")
	m.CompareAll(db)
	verify(t, m)
}

// TestDatabaseIsWhereItMayBe limits a whole database, from its making on and later.
func TestDatabaseIsWhereItMayBe(t *testing.T) {
	m := start(t)
	_, err := m.Client(south).CreateDatabase(t.Context(), connect.NewRequest(&datav1.CreateDatabaseRequest{
		Name: db, Regions: []string{west},
	}))
	if err != nil {
		t.Fatal(err)
	}
	fill(m)
	awaitSource(t, m, west, "people", 1, true)
	awaitSource(t, m, south, "people", 1, false)
	if got, by := query(t, m, south, "SELECT count(*) FROM orders", ""); by != datav1.Source_SOURCE_PRIMARY {
		t.Errorf("%s by %v", got, by)
	}
	writeOut(m, south, east)
	for _, text := range []string{secret, public} {
		if left := holders(t, m.RegionDir(south), text); len(left) > 0 {
			t.Errorf("%s is in %v", text, left)
		}
	}
	place(t, m, "", west, south)
	awaitSource(t, m, south, "people", 1, true)
	awaitSource(t, m, east, "people", 1, false)
	place(t, m, "", west)
	awaitSource(t, m, south, "people", 1, false)
	noneOnDisk(t, m, south)
	if n := memoryBytes(t, m, south); n != 0 {
		t.Errorf("%d bytes are in memory", n)
	}
	place(t, m, "")
	awaitSource(t, m, south, "people", 1, true)
	m.CompareAll(db)
	verify(t, m)
}

// TestNames changes what is under a limited name.
func TestNames(t *testing.T) {
	m := start(t)
	m.Create(db)
	place(t, m, "people", west)
	fill(m)
	for _, sql := range []string{"ALTER TABLE people RENAME TO persons", "ALTER TABLE log RENAME TO people2; "} {
		_, err := m.Client("").Execute(t.Context(), connect.NewRequest(&datav1.ExecuteRequest{
			Database: db, Statement: &datav1.Statement{Sql: sql},
		}))
		if want := strings.HasPrefix(sql, "ALTER TABLE people "); want != (err != nil) ||
			want && rpcerr.ReasonOf(err) != datav1.ErrorReason_ERROR_REASON_PLACEMENT_DIFFERS {
			t.Errorf("%s: %v", sql, err)
		}
	}
	place(t, m, "Persons", west)
	m.Exec("", db, "ALTER TABLE people RENAME TO persons")
	m.Exec("", db, "INSERT INTO persons (name) VALUES ('"+secret+" renamed')")
	// A table made anew under the name, in one script as a migration does it.
	_, err := m.Client("").Migrate(t.Context(), connect.NewRequest(&datav1.MigrateRequest{Database: db, Migrations: []*datav1.Migration{{
		Name: secret + "-migration",
		Sql: "DROP TRIGGER ordered; DROP VIEW twice; DROP VIEW named; CREATE TABLE made (id INTEGER PRIMARY KEY, name TEXT DEFAULT '" + secret + "-new');" +
			"INSERT INTO made SELECT id, name FROM persons; DROP TABLE persons; ALTER TABLE made RENAME TO persons",
	}}}))
	if err != nil {
		t.Fatal(err)
	}
	m.Exec("", db, "INSERT INTO persons (name) VALUES ('"+secret+" made anew')")
	m.WaitSync(db)
	awaitSource(t, m, west, "persons", 1, true)
	awaitSource(t, m, south, "persons", 1, false)
	for _, region := range []string{east, south} {
		writeOut(m, region)
		if left := holders(t, m.RegionDir(region), secret); len(left) > 0 {
			t.Errorf("%s has it in %v", region, left)
		}
	}
	verify(t, m)
}

// TestWatchElsewhere watches a table in a region that may not hold it.
func TestWatchElsewhere(t *testing.T) {
	m := start(t)
	m.Create(db)
	place(t, m, "people", west)
	fill(m)
	m.WaitSync(db)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	stream, err := m.Client(south).Watch(ctx, connect.NewRequest(&datav1.WatchRequest{Database: db, Table: "people"}))
	if err != nil {
		t.Fatal(err)
	}
	if !stream.Receive() {
		t.Fatal(stream.Err())
	}
	if got := stream.Msg().GetAnswer().GetRegion(); got != west {
		t.Errorf("answered by %s", got)
	}
	m.Exec(south, db, "INSERT INTO people (name) VALUES ('"+secret+" watched')")
	for stream.Receive() {
		if len(stream.Msg().GetChanges()) > 0 {
			break
		}
	}
	if len(stream.Msg().GetChanges()) == 0 {
		t.Errorf("no change: %v", stream.Err())
	}
	cancel()
	_ = stream.Close()
	if left := holders(t, m.RegionDir(south), secret); len(left) > 0 {
		t.Errorf("it is in %v", left)
	}
}

// TestWatchQueryElsewhere watches a query in a region that may not hold what it reads, at first or any more.
func TestWatchQueryElsewhere(t *testing.T) {
	m := start(t)
	m.Create(db)
	fill(m)
	m.WaitSync(db)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	watched := make(map[string]bool) // regions that answered
	for r, err := range client.WatchQuery(ctx, m.Client(south), &datav1.WatchQueryRequest{
		Database: db, Statement: &datav1.Statement{Sql: "SELECT name FROM people ORDER BY name"},
	}) {
		if err != nil {
			t.Fatal(err)
		}
		first := len(watched) == 0
		watched[r.Answer.GetRegion()] = true
		switch {
		case first && !watched[south]:
			t.Errorf("answered by %v", watched)
		case first:
			place(t, m, "people", west)
			m.Exec(south, db, "INSERT INTO people (name) VALUES ('"+secret+" watched')")
		}
		if strings.Contains(fmt.Sprint(r.Result.GetRows()), secret+" watched") && watched[west] {
			break
		}
	}
	if !watched[west] {
		t.Errorf("answered by %v", watched)
	}
	cancel()
	noneOnDisk(t, m, south)
}

// TestWatchLosesItsTable limits a table while it is watched: that watch is to go on elsewhere, and others go on here.
func TestWatchLosesItsTable(t *testing.T) {
	m := start(t)
	m.Create(db)
	fill(m)
	m.WaitSync(db)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	watch := func(table, bookmark string) *connect.ServerStreamForClient[datav1.WatchResponse] {
		stream, err := m.Client(south).Watch(ctx, connect.NewRequest(&datav1.WatchRequest{Database: db, Table: table, Bookmark: bookmark}))
		if err != nil {
			t.Fatal(err)
		}
		if !stream.Receive() {
			t.Fatal(stream.Err())
		}
		return stream
	}
	people, orders := watch("people", ""), watch("orders", "")
	mark := people.Msg().GetAnswer().GetBookmark()
	place(t, m, "people", west)
	for people.Receive() {
	}
	if err := people.Err(); rpcerr.ReasonOf(err) != datav1.ErrorReason_ERROR_REASON_WATCH_INTERRUPTED {
		t.Errorf("the watch ended with %v", err)
	}
	m.Exec(south, db, "INSERT INTO people (name) VALUES ('"+secret+" watched')")
	m.Exec(south, db, "INSERT INTO orders (note) VALUES ('"+public+" watched')")
	for _, stream := range []*connect.ServerStreamForClient[datav1.WatchResponse]{orders, watch("people", mark)} {
		for stream.Receive() {
			if len(stream.Msg().GetChanges()) > 0 {
				break
			}
		}
		if len(stream.Msg().GetChanges()) == 0 {
			t.Errorf("no change: %v", stream.Err())
		}
	}
	cancel()
	_ = people.Close()
	_ = orders.Close()
	noneOnDisk(t, m, south)
}
