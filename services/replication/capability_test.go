package replication

import (
	"context"
	"testing"

	"github.com/google/go-cmp/cmp"

	replicationv1 "github.com/nearside-dev/nearside/gen/nearside/replication/v1"
	"github.com/nearside-dev/nearside/internal/catalog"
	"github.com/nearside-dev/nearside/services/data/changelog"
	"github.com/nearside-dev/nearside/services/data/engine"
)

// noRows is a Source of nothing.
type noRows struct{}

func (noRows) Schema(context.Context) (changelog.Head, *catalog.Catalog, error) {
	return changelog.Head{}, &catalog.Catalog{}, nil
}

func (noRows) ReadChunk(context.Context, engine.ChunkStart, []uint32) (engine.Chunk, error) {
	return engine.Chunk{}, nil
}

// TestCapabilities has peers that can different things: what is used is what both can, of what this build knows.
func TestCapabilities(t *testing.T) {
	log := openLog(t)
	source := func(uint32) (Source, bool) { return noRows{}, true }
	_, with := serve(t, log, Config{Source: source})
	_, without := serve(t, log, Config{})
	for _, test := range []struct {
		name    string
		primary bool // takes snapshots
		offered []string
		version uint32
		want    []string
	}{
		{"both", true, []string{"snapshot"}, 1, []string{"snapshot"}},
		{"a newer follower", true, []string{"telepathy", "snapshot"}, 7, []string{"snapshot"}},
		{"one that does without", true, []string{"placement", "snapshot"}, 1, []string{"snapshot", "placement"}},
		{"an older follower", true, nil, 1, nil},
		{"an older primary", false, []string{"snapshot"}, 1, nil},
		{"neither", false, nil, 1, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			client := without
			if test.primary {
				client = with
			}
			p := dial(t, client, &replicationv1.Hello{Region: "eu", ProtocolVersion: test.version, Capabilities: test.offered})
			welcome := p.receive().GetWelcome()
			if diff := cmp.Diff(test.want, welcome.GetCapabilities()); diff != "" || welcome.GetProtocolVersion() != 1 {
				t.Errorf("protocol %d, capabilities (-want +got):\n%s", welcome.GetProtocolVersion(), diff)
			}
		})
	}
}
