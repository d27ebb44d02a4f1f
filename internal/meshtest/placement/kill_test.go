package placement_test

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"connectrpc.com/connect"

	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/gen/nearside/data/v1/datav1connect"
	"github.com/nearside-dev/nearside/internal/httpclient"
	"github.com/nearside-dev/nearside/internal/meshtest"
)

// rounds is how often a table is limited and allowed again; fewer with -short.
func rounds() int {
	if testing.Short() {
		return 2
	}
	return 3
}

// TestKillDuringARestriction kills a region each time at another moment after a table was withheld from it: nothing of the table is
// left in the end, and when it may have it again it has it whole.
func TestKillDuringARestriction(t *testing.T) {
	client := httpclient.NewUnary()
	defer client.CloseIdleConnections()
	ps := meshtest.StartProcesses(t, client, west, south)
	ctx := context.Background()
	primary := datav1connect.NewDataServiceClient(client, ps.PrimaryURL())
	if _, err := primary.CreateDatabase(ctx, connect.NewRequest(&datav1.CreateDatabaseRequest{Name: db})); err != nil {
		t.Fatal(err)
	}
	exec := func(sql string) {
		_, err := primary.Execute(ctx, connect.NewRequest(&datav1.ExecuteRequest{Database: db, Statement: &datav1.Statement{Sql: sql}}))
		if err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
	}
	exec("CREATE TABLE people (id INTEGER PRIMARY KEY, name TEXT)")
	exec("CREATE INDEX people_name ON people (name)")
	exec("CREATE TABLE orders (id INTEGER PRIMARY KEY, note TEXT)")
	exec("INSERT INTO people (name) WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 20000) SELECT '" + secret + " ' || i FROM n")
	place := func(regions ...string) {
		_, err := primary.SetPlacement(ctx, connect.NewRequest(&datav1.SetPlacementRequest{Database: db, Table: "people", Regions: regions}))
		if err != nil {
			t.Fatal(err)
		}
	}
	source := func(region string) (datav1.Source, error) {
		res, err := datav1connect.NewDataServiceClient(client, ps.URL(region)).Get(ctx, connect.NewRequest(&datav1.GetRequest{
			Database: db, Table: "people",
			Key: &datav1.Key{Values: []*datav1.Value{{Kind: &datav1.Value_Integer{Integer: 7}}}},
		}))
		if err != nil {
			return 0, err
		}
		if v := res.Msg.GetRow().GetValues(); len(v) != 2 || v[1].GetText() != secret+" 7" {
			return 0, fmt.Errorf("answered %v", res.Msg)
		}
		return res.Msg.GetAnswer().GetSource(), nil
	}
	await := func(what, region string, here bool) {
		meshtest.Eventually(t, what, func(context.Context) error {
			by, err := source(region)
			if err == nil && here == (by == datav1.Source_SOURCE_PRIMARY) {
				err = fmt.Errorf("answered by %v", by)
			}
			return err
		})
	}
	await("the region has the table", south, true)
	for round := range rounds() {
		place(west)
		exec(fmt.Sprintf("INSERT INTO people (name) VALUES ('%s of round %d')", secret, round))
		// Now and then it has heard of it, and deletes, or has deleted and not erased.
		for range round * 4 {
			if by, _ := source(south); by == datav1.Source_SOURCE_PRIMARY {
				break
			}
		}
		ps.KillSidecar(south)
		exec(fmt.Sprintf("INSERT INTO people (name) VALUES ('%s while it is away %d')", secret, round))
		ps.StartSidecar(south)
		ps.WaitReady(ps.URL(south))
		await("the primary answers", south, false)
		meshtest.Eventually(t, "nothing is on the disk", func(context.Context) error {
			if left := holders(t, ps.RegionDir(south), secret); len(left) > 0 {
				return fmt.Errorf("it is in %v", left)
			}
			return nil
		})
		meshtest.Eventually(t, "the search finds it where it may be", func(context.Context) error {
			if len(holders(t, ps.RegionDir(west), secret)) == 0 {
				return errors.New("nothing found")
			}
			return nil
		})
		place()
		if round%2 == 0 {
			ps.KillSidecar(south)
			ps.StartSidecar(south)
			ps.WaitReady(ps.URL(south))
		}
		await("the region has it again", south, true)
		meshtest.WaitSync(t, client, ps.PrimaryURL(), ps.URLs(), db)
		meshtest.CompareAll(t, client, ps.PrimaryURL(), ps.URLs(), db)
	}
}
