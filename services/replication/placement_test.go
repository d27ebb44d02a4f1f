package replication

import (
	"bytes"
	"context"
	"slices"
	"sync/atomic"
	"testing"

	"google.golang.org/protobuf/proto"

	replicationv1 "github.com/nearside-dev/nearside/gen/nearside/replication/v1"
	"github.com/nearside-dev/nearside/internal/catalog"
	"github.com/nearside-dev/nearside/internal/placement"
	"github.com/nearside-dev/nearside/services/data/changelog"
	"github.com/nearside-dev/nearside/services/data/engine"
)

// limitedDatabase is a database with two tables, open and secret, of which any region may be forbidden to hold the second. The rows of
// both have the names of the tables in them.
type limitedDatabase struct {
	writer

	rules  atomic.Pointer[placement.Rules]
	schema *catalog.Catalog
	read   atomic.Pointer[state] // what Schema answers
}

type state struct {
	head   changelog.Head
	schema *catalog.Catalog
}

const limitedID = 100

func newLimitedDatabase(t *testing.T) *limitedDatabase {
	t.Helper()
	d := &limitedDatabase{writer: writer{t: t, log: openLog(t), id: limitedID}}
	table := func(id uint32, name string) *catalog.Table {
		return &catalog.Table{ID: id, Name: name, IntegerKey: -1, Columns: []catalog.Column{{ID: id + 10, Name: "c"}}}
	}
	d.schema = &catalog.Catalog{
		Version: 1, NextID: 50, Tables: []*catalog.Table{table(1, "open"), table(2, "secret")},
		Objects: []catalog.Object{{Type: "table", Name: "secret", Table: "secret", SQL: "CREATE TABLE secret"}},
	}
	d.commit(d.schema.ToProto())
	return d
}

// Schema implements Source.
func (d *limitedDatabase) Schema(context.Context) (changelog.Head, *catalog.Catalog, error) {
	s := d.read.Load()
	return s.head, s.schema, nil
}

// ReadChunk implements Source.
func (d *limitedDatabase) ReadChunk(context.Context, engine.ChunkStart, []uint32) (engine.Chunk, error) {
	return engine.Chunk{}, nil
}

// commit makes and publishes a record of both tables.
func (d *limitedDatabase) commit(schema *replicationv1.Catalog) {
	d.t.Helper()
	r := &replicationv1.CommitRecord{
		Version: d.head.Version + 1, Epoch: 1, PreviousChecksum: d.head.Checksum[:], Catalog: schema, Actor: "ada",
	}
	for _, t := range d.schema.Tables {
		r.Tables = append(r.Tables, &replicationv1.TableChange{
			TableId: t.ID, Sum: make([]byte, 16), RowCount: 1,
			Rows: []*replicationv1.RowChange{{Key: []byte(t.Name), Value: []byte(t.Name)}},
		})
	}
	record, err := proto.Marshal(r)
	if err != nil {
		d.t.Fatal(err)
	}
	b := d.log.NewBatch(d.id)
	defer b.Close()
	d.head = changelog.Head{Epoch: 1, Version: r.GetVersion(), Checksum: changelog.ChecksumOf(record)}
	if err := b.Record(d.head.Version, record); err != nil {
		d.t.Fatal(err)
	}
	if err := b.Commit(); err != nil {
		d.t.Fatal(err)
	}
	d.read.Store(&state{d.head, d.schema})
	d.publish()
}

func (d *limitedDatabase) place(p placement.Database) {
	d.rules.Store((*placement.Rules)(nil).With(limitedID, p))
}

func (d *limitedDatabase) dial(capabilities ...string) *peer {
	d.t.Helper()
	_, client := serve(d.t, d.log, Config{
		Source:    func(uint32) (Source, bool) { return d, true },
		Placement: d.rules.Load,
	})
	p := dial(d.t, client, &replicationv1.Hello{Region: "us", ProtocolVersion: 1, Capabilities: capabilities})
	p.receive()
	return p
}

// received is what a subscriber has after a message.
type received struct {
	t       *testing.T
	version uint64
	told    [][]string // what it was told, in order
	stubs   int        // changes of the table that say that it must not be read any more
	secrets int        // records with its rows
}

// await receives until a version and, if told is not nil, until that was the last that was told.
func (r *received) await(p *peer, version uint64, told []string) {
	r.t.Helper()
	for r.version < version || told != nil && (len(r.told) == 0 || !slices.Equal(r.told[len(r.told)-1], told)) {
		m := p.receive()
		switch m := m.GetMessage().(type) {
		case *replicationv1.SubscribeResponse_Placement:
			if m.Placement.GetVersion() != r.version {
				r.t.Fatalf("placement at %d after record %d", m.Placement.GetVersion(), r.version)
			}
			if secret := len(m.Placement.GetWithheld()) == 0; secret != bytes.Contains(r.encode(m.Placement), []byte("CREATE TABLE secret")) {
				r.t.Fatalf("placement %v", m.Placement)
			}
			r.told = append(r.told, m.Placement.GetWithheld())
		case *replicationv1.SubscribeResponse_Records:
			for _, record := range m.Records.GetRecords() {
				r.record(record)
			}
		case *replicationv1.SubscribeResponse_Heartbeat: // the answer to a ping comes when it comes
		default:
			r.t.Fatalf("unexpected message %v", m)
		}
	}
}

func (r *received) encode(m proto.Message) []byte {
	b, err := proto.Marshal(m)
	if err != nil {
		r.t.Fatal(err)
	}
	return b
}

func (r *received) record(encoded []byte) {
	r.t.Helper()
	var m replicationv1.CommitRecord
	if err := proto.Unmarshal(encoded, &m); err != nil {
		r.t.Fatal(err)
	}
	if r.version++; m.GetVersion() != r.version {
		r.t.Fatalf("record %d in the place of %d", m.GetVersion(), r.version)
	}
	for _, t := range m.GetTables() {
		switch {
		case t.GetTableId() == 2 && t.GetReplaced():
			r.stubs++
		case t.GetTableId() == 2:
			r.secrets++
		}
	}
	if (m.GetWithheld() == nil) != bytes.Contains(encoded, []byte("secret")) {
		r.t.Fatalf("record %d: %v", m.GetVersion(), &m)
	}
}

var (
	everywhere = placement.Database{}
	inEurope   = placement.Database{Tables: map[string][]string{"secret": {"eu"}}}
)

func TestFollowWithPlacement(t *testing.T) {
	d := newLimitedDatabase(t)
	d.place(inEurope)
	p := d.dial("snapshot", "placement")
	r := &received{t: t}
	p.follow(&replicationv1.Follow{DatabaseId: limitedID})
	d.commit(nil)
	r.await(p, d.head.Version, []string{"secret"})
	if r.secrets > 0 {
		t.Fatalf("%d records with what is withheld", r.secrets)
	}
	stubs := r.stubs
	d.commit(nil)
	r.await(p, d.head.Version, nil)
	if r.secrets > 0 || r.stubs != stubs {
		t.Errorf("after it was told: %d with rows, %d without", r.secrets, r.stubs-stubs)
	}

	d.place(everywhere)
	p.ping(1) // which wakes it
	for len(r.told) < 2 {
		m := p.receive()
		if c := m.GetPlacement(); c != nil {
			r.told = append(r.told, c.GetWithheld())
		}
	}
	d.commit(nil)
	r.await(p, d.head.Version, nil)
	if r.secrets != 1 {
		t.Errorf("%d records with rows once it may hold them", r.secrets)
	}

	// A subscriber that knows begins where it was, and is told nothing.
	d.place(inEurope)
	again := d.dial("snapshot", "placement")
	n := &received{t: t, version: d.head.Version}
	again.follow(&replicationv1.Follow{
		DatabaseId: limitedID, Epoch: 1, Version: d.head.Version, Checksum: d.head.Checksum[:], Withheld: []string{"secret"},
	})
	d.commit(nil)
	n.await(again, d.head.Version, nil)
	if n.secrets+n.stubs+len(n.told) > 0 {
		t.Errorf("%+v", n)
	}
}

func TestRefusedByPlacement(t *testing.T) {
	for _, test := range []struct {
		name         string
		placed       placement.Database
		capabilities []string
		reason       replicationv1.Refusal_Reason
	}{
		{"the database", placement.Database{Regions: []string{"eu"}}, []string{"snapshot", "placement"}, replicationv1.Refusal_REASON_NOT_PLACED},
		{"an old sidecar", inEurope, []string{"snapshot"}, replicationv1.Refusal_REASON_NOT_PLACED},
	} {
		t.Run(test.name, func(t *testing.T) {
			d := newLimitedDatabase(t)
			d.place(test.placed)
			p := d.dial(test.capabilities...)
			p.follow(&replicationv1.Follow{DatabaseId: limitedID})
			if got := p.receive().GetRefusal(); got.GetReason() != test.reason {
				t.Errorf("%v", got)
			}
			// And while it follows.
			d.place(everywhere)
			p.follow(&replicationv1.Follow{DatabaseId: limitedID})
			if p.receive().GetRecords() == nil {
				t.Fatal("no records")
			}
			d.place(test.placed)
			p.ping(1)
			for {
				m := p.receive()
				if m.GetHeartbeat() != nil {
					continue
				}
				if m.GetRefusal().GetReason() != test.reason {
					t.Errorf("%v", m)
				}
				return
			}
		})
	}
}

// TestUnknownTable has records of a table that nobody remembers the name of.
func TestUnknownTable(t *testing.T) {
	d := newLimitedDatabase(t)
	at := d.head
	d.commit(nil)
	d.schema = &catalog.Catalog{Version: 3, NextID: 50, Tables: d.schema.Tables[:1]} // secret was dropped
	d.commit(d.schema.ToProto())
	d.place(inEurope)
	p := d.dial("snapshot", "placement")
	p.follow(&replicationv1.Follow{DatabaseId: limitedID, Epoch: 1, Version: at.Version, Checksum: at.Checksum[:]})
	if got := p.receive().GetRefusal(); got.GetReason() != replicationv1.Refusal_REASON_FAR_BEHIND {
		t.Errorf("%v", got)
	}
}
