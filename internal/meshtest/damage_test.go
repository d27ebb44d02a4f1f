package meshtest_test

import (
	"bytes"
	"context"
	"fmt"
	"path/filepath"
	"testing"

	"connectrpc.com/connect"

	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/internal/meshtest"
)

// byIndex reads rows of a region in the order of the only index.
func byIndex(ctx context.Context, m *meshtest.Mesh, region string, from, rows int64) (*datav1.ListResponse, error) {
	res, err := m.Client(region).List(ctx, connect.NewRequest(&datav1.ListRequest{
		Database: "d", Table: "t", Index: "t_n", PageSize: uint32(rows),
		Start: &datav1.ListRequest_Bound{Values: []*datav1.Value{{Kind: &datav1.Value_Integer{Integer: from}}}},
	}))
	if err != nil {
		return nil, err
	}
	if got := res.Msg.GetRows(); int64(len(got)) != rows || got[0].GetValues()[1].GetInteger() != from {
		return nil, fmt.Errorf("from %d there are %v", from, got)
	}
	return res.Msg, nil
}

// TestEntryWithoutARow damages index entries of a region's store. A read that meets one is answered by the primary; the table
// is then copied anew and read in the region again, without a check and without a commit.
func TestEntryWithoutARow(t *testing.T) {
	m := damagedMesh(t)
	id := databaseID(t, m)
	m.StopSidecar(west)
	db := openStore(t, filepath.Join(m.RegionDir(west), "replica"))
	key, value := find(t, db, dataPrefix(t, db, id, true), []byte("k050"))
	other := bytes.Clone(key)
	other[bytes.Index(other, []byte("k050"))+1] ^= 1 // k150, which is no row's
	set(t, db, key, other, value)
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	m.StartSidecar(west)
	m.WaitSync("d")
	res, err := byIndex(t.Context(), m, west, 10, 20)
	if err != nil || res.GetAnswer().GetSource() != datav1.Source_SOURCE_REPLICA {
		t.Fatalf("rows before the damage: %v, %v", res.GetAnswer(), err)
	}
	res, err = byIndex(t.Context(), m, west, 45, 20)
	if err != nil || !res.GetAnswer().GetServedByPrimary() {
		t.Fatalf("rows around the damage: %v, %v", res.GetAnswer(), err)
	}
	m.Eventually("the region answers again", func(ctx context.Context) error {
		res, err := byIndex(ctx, m, west, 45, 20)
		if err == nil && res.GetAnswer().GetSource() == datav1.Source_SOURCE_PRIMARY {
			err = fmt.Errorf("answered by %v", res.GetAnswer().GetSource())
		}
		return err
	})
	m.CompareAll("d")
}
