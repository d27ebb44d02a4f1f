package placement_test

import (
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"connectrpc.com/connect"
	"go.uber.org/goleak"

	controlv1 "github.com/nearside-dev/nearside/gen/nearside/control/v1"
	"github.com/nearside-dev/nearside/gen/nearside/control/v1/controlv1connect"
	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/gen/nearside/data/v1/datav1connect"
	"github.com/nearside-dev/nearside/internal/meshtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	east  = "us-east-1" // the primary's
	west  = "eu-west-1" // where what is limited may be
	south = "ap-southeast-1"
	db    = "d"

	secret = "Zq7marker" // is in all that is limited
	public = "Kp3public" // is in all that is not
)

func start(t *testing.T) *meshtest.Mesh {
	t.Helper()
	return meshtest.Start(t, meshtest.Options{Regions: []string{east, west, south}})
}

// place sets a placement.
func place(t *testing.T, m *meshtest.Mesh, table string, regions ...string) {
	t.Helper()
	_, err := m.Client("").SetPlacement(context.Background(), connect.NewRequest(&datav1.SetPlacementRequest{
		Database: db, Table: table, Regions: regions,
	}))
	if err != nil {
		t.Fatal(err)
	}
}

// holders returns the files of a folder that hold a text.
func holders(t *testing.T, dir, text string) (paths []string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if os.IsNotExist(err) || err == nil && e.IsDir() {
			return nil // deleted meanwhile
		}
		if err != nil {
			return err
		}
		content, err := os.ReadFile(path)
		if err == nil && bytes.Contains(content, []byte(text)) {
			paths = append(paths, strings.TrimPrefix(path, dir))
		}
		if os.IsNotExist(err) {
			return nil
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return paths
}

// noneOnDisk waits until no file of a region that held it once has the secret.
func noneOnDisk(t *testing.T, m *meshtest.Mesh, region string) {
	t.Helper()
	m.Eventually("nothing of it is on the disk of "+region, func(context.Context) error {
		if left := holders(t, m.RegionDir(region), secret); len(left) > 0 {
			return fmt.Errorf("it is in %v", left)
		}
		return nil
	})
}

// writeOut has a region write out what it has in memory.
func writeOut(m *meshtest.Mesh, regions ...string) {
	for _, region := range regions {
		m.StopSidecar(region)
		m.StartSidecar(region)
	}
	m.WaitReady()
}

// query runs a statement in a region at least as fresh as a bookmark, and returns its rows as text, and where it was answered.
func query(t *testing.T, m *meshtest.Mesh, region, sql, bookmark string) (string, datav1.Source) {
	t.Helper()
	res, err := m.Client(region).Query(context.Background(), connect.NewRequest(&datav1.QueryRequest{
		Database: db, Statement: &datav1.Statement{Sql: sql}, Consistency: &datav1.Consistency{Bookmark: bookmark},
	}))
	if err != nil {
		t.Fatalf("%s: %s: %v", region, sql, err)
	}
	return fmt.Sprint(res.Msg.GetResult().GetRows()), res.Msg.GetAnswer().GetSource()
}

// get reads a row by its key in a region.
func get(t *testing.T, m *meshtest.Mesh, region, table string, id int64) *datav1.GetResponse {
	t.Helper()
	res, err := m.Client(region).Get(context.Background(), connect.NewRequest(&datav1.GetRequest{
		Database: db, Table: table,
		Key: &datav1.Key{Values: []*datav1.Value{{Kind: &datav1.Value_Integer{Integer: id}}}},
	}))
	if err != nil {
		t.Fatalf("%s: %s %d: %v", region, table, id, err)
	}
	return res.Msg
}

// memoryBytes returns how much a region keeps of the database in memory.
func memoryBytes(t *testing.T, m *meshtest.Mesh, region string) uint64 {
	t.Helper()
	res, err := datav1connect.NewCacheServiceClient(m.HTTP(), m.URL(region)).Stats(context.Background(),
		connect.NewRequest(&datav1.CacheServiceStatsRequest{Database: db}))
	if err != nil {
		t.Fatal(err)
	}
	return res.Msg.GetDatabaseBytes()
}

// verify compares all copies with the primary.
func verify(t *testing.T, m *meshtest.Mesh) {
	t.Helper()
	res, err := controlv1connect.NewVerifyServiceClient(m.HTTP(), m.PrimaryURL()).Verify(context.Background(),
		connect.NewRequest(&controlv1.VerifyRequest{Deep: true}))
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range res.Msg.GetResults() {
		if len(r.GetFindings()) > 0 || r.GetError() != "" {
			t.Errorf("verify: %v", r)
		}
	}
}

// awaitSource reads a row until a region answers it from where it should.
func awaitSource(t *testing.T, m *meshtest.Mesh, region, table string, id int64, replica bool) {
	t.Helper()
	m.Eventually(fmt.Sprintf("%s has %s: %v", region, table, replica), func(context.Context) error {
		source := get(t, m, region, table, id).GetAnswer().GetSource()
		if replica == (source == datav1.Source_SOURCE_PRIMARY) {
			return fmt.Errorf("answered by %v", source)
		}
		return nil
	})
}
