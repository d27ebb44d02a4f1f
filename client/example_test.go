package client_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"connectrpc.com/connect"

	"github.com/nearside-dev/nearside/client"
	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
)

// newDatabase makes a database for an example, and a client to use it with.
func newDatabase(name, schema string) (*client.Client, *client.Database) {
	c := client.New(meshURL("eu-west-1"))
	ctx := context.Background()
	_, err := c.CreateDatabase(ctx, connect.NewRequest(&datav1.CreateDatabaseRequest{Name: name, IfNotExists: true}))
	if err != nil {
		panic(err)
	}
	db := c.Database(name)
	for statement := range strings.SplitSeq(schema, ";") {
		if _, err := db.Exec(ctx, statement); err != nil {
			panic(err)
		}
	}
	return c, db
}

type Item struct {
	SKU     string `db:"sku"`
	Name    string
	Cents   int64
	Version uint64 `db:",version"`
}

func ExampleDatabase_Put() {
	c, db := newDatabase("example_put", `CREATE TABLE items (sku TEXT NOT NULL PRIMARY KEY, name TEXT NOT NULL, cents INTEGER NOT NULL)`)
	defer c.Close()
	ctx := context.Background()
	if _, err := db.Put(ctx, "items", Item{SKU: "pen", Name: "Pen", Cents: 250}); err != nil {
		panic(err)
	}
	// Read in the region that was written through: never older than the write.
	item, err := client.Get[Item](ctx, db, "items", "pen")
	fmt.Println(item.Name, item.Cents, err)
	_, err = client.Get[Item](ctx, db, "items", "yacht")
	fmt.Println(errors.Is(err, client.ErrNoRow))
	// Output:
	// Pen 250 <nil>
	// true
}

func ExampleDatabase_Batch() {
	c, db := newDatabase("example_batch", `CREATE TABLE items (sku TEXT NOT NULL PRIMARY KEY, name TEXT NOT NULL, cents INTEGER NOT NULL)`)
	defer c.Close()
	ctx := context.Background()
	results, err := db.Batch(ctx,
		client.Put("items", Item{SKU: "pen", Name: "Pen", Cents: 250}).IfAbsent(),
		client.Put("items", map[string]any{"sku": "pad", "name": "Pad", "cents": 400}),
		client.Exec("UPDATE items SET cents = cents + ? WHERE cents < ?", 10, 300),
	)
	if err != nil {
		panic(err)
	}
	fmt.Println(results[2].RowsAffected, "row made dearer")

	// Change what was read, unless somebody else did.
	item, err := client.Get[Item](ctx, db, "items", "pen")
	if err != nil {
		panic(err)
	}
	change := client.Update("items", map[string]any{"cents": item.Cents - 5}, "pen").IfVersion(item.Version)
	_, err = db.Batch(ctx, change)
	fmt.Println("first:", err)
	_, err = db.Batch(ctx, change)
	if e, ok := errors.AsType[*client.Error](err); ok && errors.Is(err, client.ErrPreconditionFailed) {
		present, _ := e.PresentVersion()
		fmt.Println("second:", e.Reason, "the row is newer:", present > item.Version)
	}
	// Output:
	// 1 row made dearer
	// first: <nil>
	// second: PRECONDITION_FAILED the row is newer: true
}

func ExampleAll() {
	c, db := newDatabase("example_all", `CREATE TABLE items (sku TEXT NOT NULL PRIMARY KEY, name TEXT NOT NULL, cents INTEGER NOT NULL);
		INSERT INTO items VALUES ('pen', 'Pen', 250), ('pad', 'Pad', 400)`)
	defer c.Close()
	ctx := context.Background()
	items, err := client.All[Item](ctx, db, "SELECT sku, name, cents FROM items WHERE cents >= ? ORDER BY cents", 100)
	if err != nil {
		panic(err)
	}
	for _, item := range items {
		fmt.Println(item.SKU, item.Cents)
	}
	total, err := client.First[int64](ctx, db, "SELECT sum(cents) FROM items")
	fmt.Println(total, err)
	dearest, err := client.First[map[string]any](ctx, db, "SELECT name, cents FROM items ORDER BY cents DESC LIMIT 1")
	fmt.Println(dearest, err)
	// Output:
	// pen 250
	// pad 400
	// 650 <nil>
	// map[cents:400 name:Pad] <nil>
}

func ExampleList() {
	c, db := newDatabase("example_list", `CREATE TABLE numbers (n INTEGER PRIMARY KEY, word TEXT);
		INSERT INTO numbers VALUES (1, 'one'), (2, 'two'), (3, 'three'), (4, 'four'), (5, NULL)`)
	defer c.Close()
	type Number struct {
		N    int
		Word *string
	}
	// Two rows a page, so that there are several.
	for number, err := range client.List[Number](context.Background(), db, "numbers", client.Range{From: []any{2}, PageSize: 2}) {
		if err != nil {
			panic(err)
		}
		if number.Word == nil {
			fmt.Println(number.N, "has no word")
			break
		}
		fmt.Println(number.N, *number.Word)
	}
	// Output:
	// 2 two
	// 3 three
	// 4 four
	// 5 has no word
}

func ExampleRows() {
	c, db := newDatabase("example_rows", `CREATE TABLE t (a INTEGER PRIMARY KEY)`)
	defer c.Close()
	const endless = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT i FROM n"
	sum := 0
	for i, err := range client.Rows[int](context.Background(), db, endless) {
		if err != nil {
			panic(err)
		}
		if sum += i; i == 100 {
			break // this ends the query
		}
	}
	fmt.Println(sum)
	// Output: 5050
}

func ExampleWithIdempotencyKey() {
	c, db := newDatabase("example_key", `CREATE TABLE orders (id INTEGER PRIMARY KEY, item TEXT)`)
	defer c.Close()
	ctx := client.WithIdempotencyKey(context.Background(), "order of 9 o'clock")
	for range 2 {
		r, err := db.Exec(ctx, "INSERT INTO orders (item) VALUES ('pen')")
		fmt.Println(r.LastInsertRowID, r.Replayed, err)
	}
	n, err := client.First[int](context.Background(), db, "SELECT count(*) FROM orders")
	fmt.Println(n, err)
	// Output:
	// 1 false <nil>
	// 1 true <nil>
	// 1 <nil>
}

func ExampleSession() {
	c, db := newDatabase("example_session", `CREATE TABLE notes (id INTEGER PRIMARY KEY, text TEXT)`)
	defer c.Close()
	ctx := context.Background()
	if _, err := db.Exec(ctx, "INSERT INTO notes VALUES (1, 'written in Europe')"); err != nil {
		panic(err)
	}
	// The bookmarks go to another process, which reads in another region: it sees the note.
	bookmarks := c.Session().Bookmarks()
	other := client.New(meshURL("us-east-1"), client.InSession(client.NewSession(bookmarks)))
	defer other.Close()
	note, err := client.Get[struct {
		ID   int
		Text string
	}](ctx, other.Database("example_session"), "notes", 1)
	fmt.Println(note.Text, err)
	// Output: written in Europe <nil>
}

func ExampleError() {
	c, db := newDatabase("example_error", `CREATE TABLE t (a INTEGER PRIMARY KEY, b TEXT NOT NULL)`)
	defer c.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	_, err := db.Exec(ctx, "INSERT INTO t VALUES (1, NULL)")
	if errors.Is(err, client.ErrConstraintFailed) {
		e, _ := client.ErrorOf(err)
		fmt.Println(e.Code, e.Metadata["sqlite_code"])
	}
	_, err = c.Database("").Exec(ctx, "SELECT 1")
	if e, ok := errors.AsType[*client.Error](err); ok {
		fmt.Println(e.Reason, e.Fields)
	}
	// Output:
	// failed_precondition SQLITE_CONSTRAINT_NOTNULL
	// FIELD_INVALID [{database must be at least 1 characters}]
}
