package snapshot_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"connectrpc.com/connect"

	replicationv1 "github.com/nearside-dev/nearside/gen/nearside/replication/v1"
	"github.com/nearside-dev/nearside/gen/nearside/replication/v1/replicationv1connect"
	"github.com/nearside-dev/nearside/internal/httpclient"
)

// TestASnapshotStallsNobody has a follower that stops reading in the middle of a snapshot that is larger than all buffers on
// the way. Commits go on, and so do checkpoints: the WAL, which an open read transaction would keep from being begun anew,
// stays small. In the end the follower reads on.
func TestASnapshotStallsNobody(t *testing.T) {
	const (
		rows, rowBytes       = 24_000, 600     // 14 MB, of which a stream may be ahead of its reader by 4 MiB
		commits, commitBytes = 1000, 100 << 10 // 100 MiB in all
		walBytes             = 64 << 20        // 32 MiB, and twice what comes between two checkpoints, and then some
	)
	o := startPrimaryThatTrims(t, time.Hour, closed())
	o.exec("CREATE TABLE item (id INTEGER PRIMARY KEY, v BLOB)", "CREATE TABLE other (id INTEGER PRIMARY KEY, v BLOB)",
		fmt.Sprintf("INSERT INTO item WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < %d) "+
			"SELECT i, zeroblob(%d) FROM n", rows, rowBytes))
	httpClient := httpclient.NewStreaming()
	defer httpClient.CloseIdleConnections()
	client := replicationv1connect.NewReplicationServiceClient(httpClient, "http://"+o.addr)
	stream, err := client.Snapshot(t.Context(), connect.NewRequest(&replicationv1.SnapshotRequest{DatabaseId: o.id}))
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Close()
	for stream.Msg().GetChunk() == nil {
		if !stream.Receive() {
			t.Fatalf("no chunk: %v", stream.Err())
		}
	}
	wal := func() int64 {
		t.Helper()
		info, err := os.Stat(filepath.Join(o.dir, "db", fmt.Sprint(o.id, ".sqlite-wal")))
		if err != nil {
			t.Fatal(err)
		}
		return info.Size()
	}
	checkpoints := o.checkpoints.Load()
	for range commits {
		o.exec(fmt.Sprintf("INSERT INTO other (v) VALUES (zeroblob(%d))", commitBytes))
	}
	if n := o.checkpoints.Load() - checkpoints; n < 3 {
		t.Errorf("%d checkpoints during %d commits", n, commits)
	}
	if size := wal(); size > walBytes {
		t.Errorf("the WAL has %d bytes after %d commits of %d", size, commits, commitBytes)
	}
	copied := len(stream.Msg().GetChunk().GetRows())
	var last *replicationv1.SnapshotResponse
	for stream.Receive() {
		last = stream.Msg()
		if c := last.GetChunk(); c.GetTableId() > 0 {
			copied += len(c.GetRows())
		}
	}
	if err := stream.Err(); err != nil {
		t.Fatal(err)
	}
	if last.GetDone() == nil {
		t.Fatalf("the snapshot ended with %v", last)
	}
	if copied < rows || last.GetDone().GetPosition().GetVersion() < uint64(commits) {
		t.Errorf("%d rows of %d, up to version %d after %d commits", copied, rows, last.GetDone().GetPosition().GetVersion(), commits)
	}
}
