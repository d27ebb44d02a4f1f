package placement

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"google.golang.org/protobuf/proto"

	replicationv1 "github.com/nearside-dev/nearside/gen/nearside/replication/v1"
	"github.com/nearside-dev/nearside/internal/catalog"
	"github.com/nearside-dev/nearside/internal/identity"
)

// marker is in whatever tells of a withheld table.
const marker = "a-word-that-must-not-leave"

// table is a table.
func table(id uint32, name string) *replicationv1.Catalog_Table {
	t := &replicationv1.Catalog_Table{
		Id: id, Name: name, Identity: 1, IntegerKey: 1,
		Columns: []*replicationv1.Catalog_Column{{Id: 10 * id, Name: "id"}, {Id: 10*id + 1, Name: "c"}},
	}
	return t
}

func object(kind, name, of, sql string) *replicationv1.Catalog_Object {
	return &replicationv1.Catalog_Object{Type: kind, Name: name, Table: of, Sql: sql}
}

// schema has tables "open" (1) and "Secret" (2), and what there may be around the second.
func schema() *replicationv1.Catalog {
	return &replicationv1.Catalog{
		Version: 3, NextId: 100,
		Objects: []*replicationv1.Catalog_Object{
			object("table", "open", "open", "CREATE TABLE open (id INTEGER PRIMARY KEY, s REFERENCES Secret (id))"),
			object("table", "Secret", "Secret", "CREATE TABLE Secret (id INTEGER PRIMARY KEY, c DEFAULT '"+marker+"' CHECK (c <> '"+marker+"'))"),
			object("index", "i", "Secret", "CREATE INDEX i ON Secret (c) WHERE c = '"+marker+"'"),
			object("index", "oi", "open", "CREATE INDEX oi ON open (s)"),
			object("trigger", "t1", "Secret", "CREATE TRIGGER t1 AFTER INSERT ON Secret BEGIN SELECT '"+marker+"'; END"),
			object("trigger", "t2", "open", "CREATE TRIGGER t2 AFTER INSERT ON open BEGIN INSERT INTO [secret] VALUES (1, '"+marker+"'); END"),
			object("view", "v1", "v1", "CREATE VIEW v1 AS SELECT '"+marker+"' FROM \"SECRET\""),
			object("view", "v2", "v2", "CREATE VIEW v2 AS SELECT *, '"+marker+"' FROM V1"),
			object("view", "v3", "v3", "CREATE VIEW v3 AS SELECT * FROM open"),
			object("view", "v4", "v4", "CREATE VIEW v4 AS /* it's */ SELECT '"+marker+"' FROM secret /* it's */"),
		},
		Tables: []*replicationv1.Catalog_Table{table(2, "Secret"), table(1, "open")},
	}
}

func encode(t testing.TB, r *replicationv1.CommitRecord) []byte {
	t.Helper()
	b, err := proto.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func change(id uint32, text string) *replicationv1.TableChange {
	return &replicationv1.TableChange{
		TableId: id, Sum: []byte(text)[:16], RowCount: 7,
		Rows: []*replicationv1.RowChange{{Key: []byte(text), Value: []byte(text)}, {Key: []byte(text + "2")}},
	}
}

func TestCatalogLeavesOutWhatTells(t *testing.T) {
	f := NewFilter([]string{"secret"}, nil, nil)
	got := f.Catalog(schema())
	var names []string
	for _, o := range got.GetObjects() {
		names = append(names, o.GetName())
	}
	if want := []string{"open", "oi", "v3"}; !slices.Equal(names, want) || len(got.GetTables()) != 1 || !got.GetPartial() {
		t.Errorf("objects %v, want %v; %d tables", names, want, len(got.GetTables()))
	}
	if bytes.Contains(encode(t, &replicationv1.CommitRecord{Catalog: got}), []byte(marker)) {
		t.Error("the schema tells")
	}
	if whole := NewFilter(nil, nil, nil).Catalog(schema()); !proto.Equal(whole, schema()) {
		t.Error("without names the schema is another")
	}
	if allowed := f.Allowed(nil); !slices.Equal(allowed, []uint32{1}) {
		t.Errorf("allowed are %v", allowed)
	}
	if allowed := f.Allowed([]uint32{2, 9}); allowed == nil || len(allowed) != 0 {
		t.Errorf("allowed of 2 and 9 are %v", allowed)
	}
}

func TestRecord(t *testing.T) {
	text := "an open text of some bytes"
	value := int64(99)
	untouched := encode(t, &replicationv1.CommitRecord{
		Version: 4, Tables: []*replicationv1.TableChange{change(1, text)}, Actor: "ada", IdempotencyKey: "k", CallerAddress: []byte{192, 0, 2, 1},
	})
	f := NewFilter([]string{"secret"}, []string{"secret"}, schema())
	if got, err := f.Record(untouched); err != nil || &got[0] != &untouched[0] || len(got) != len(untouched) {
		t.Errorf("a record of another table is not the same bytes: %v", err)
	}
	touched := &replicationv1.CommitRecord{
		Version: 5, Epoch: 1, PreviousChecksum: make([]byte, 16), TimeUnixNanos: 6, MeshVersion: 7, Catalog: schema(),
		Tables:          []*replicationv1.TableChange{change(1, text), change(2, marker)},
		DroppedTableIds: []uint32{3},
		Sequences:       []*replicationv1.Sequence{{TableId: 1, Value: &value}, {TableId: 2, Value: &value}},
		Actor:           marker, IdempotencyKey: marker, RequestHash: []byte(marker), TraceParent: marker, CallerAddress: []byte(marker), Trace: []byte(marker),
		Migration: &replicationv1.AppliedMigration{Name: marker, Checksum: []byte(marker)},
	}
	for _, told := range []bool{true, false} {
		f := NewFilter([]string{"secret"}, nil, schema())
		if told {
			f = NewFilter([]string{"secret"}, []string{"secret"}, schema())
		}
		original := encode(t, touched)
		got, err := f.Record(original)
		if err != nil || bytes.Contains(got, []byte(marker)) || bytes.Contains(got, []byte(marker)[:16]) {
			t.Fatalf("told %v: the record tells: %v", told, err)
		}
		var r replicationv1.CommitRecord
		if err := proto.Unmarshal(got, &r); err != nil {
			t.Fatal(err)
		}
		tables := 1
		if !told {
			tables = 2
		}
		if r.GetVersion() != 5 || r.GetEpoch() != 1 || r.GetMeshVersion() != 7 || r.GetTimeUnixNanos() != 6 ||
			len(r.GetTables()) != tables || len(r.GetSequences()) != 1 || !slices.Equal(r.GetDroppedTableIds(), []uint32{3}) ||
			!proto.Equal(r.GetTables()[0], change(1, text)) {
			t.Errorf("told %v: %v", told, &r)
		}
		if !told && !proto.Equal(r.GetTables()[1], &replicationv1.TableChange{TableId: 2, Replaced: true}) {
			t.Errorf("what the region may still have: %v", r.GetTables()[1])
		}
		checkSeal(t, got, original)
	}
	unknown := encode(t, &replicationv1.CommitRecord{Version: 6, Tables: []*replicationv1.TableChange{change(77, text)}})
	if _, err := f.Record(unknown); !errors.Is(err, ErrUnknownTable) {
		t.Errorf("rows of a table without a name: %v", err)
	}
	if got, err := NewFilter(nil, nil, nil).Record(unknown); err != nil || &got[0] != &unknown[0] {
		t.Errorf("without names: %v", err)
	}
}

// checkSeal checks that a filtered record stands for the original, and for nothing else when a byte of it changes.
func checkSeal(t testing.TB, got, original []byte) {
	t.Helper()
	var r replicationv1.CommitRecord
	if err := proto.Unmarshal(got, &r); err != nil {
		t.Fatal(err)
	}
	withheld := encodeSeal(t, r.GetWithheld())
	sum, err := ChecksumOf(got, withheld)
	want := sha256.Sum256(original)
	if err != nil || !bytes.Equal(sum[:], want[:16]) {
		t.Fatalf("checksum %x, want %x: %v", sum, want[:16], err)
	}
	for i := range len(got) - len(withheld) {
		bad := bytes.Clone(got)
		bad[i] ^= 1
		if sum, err := ChecksumOf(bad, withheld); err == nil && i < len(got)-len(withheld)-3 {
			t.Fatalf("byte %d changed: checksum %x", i, sum)
		}
	}
}

func encodeSeal(t testing.TB, w *replicationv1.Withheld) []byte {
	t.Helper()
	b, err := proto.Marshal(w)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestFilteredRecordsRevealNothing makes histories of schemas and rows at random. Everything of a withheld table has the marker in it,
// and nothing that is sent does; of the others everything is sent.
func TestFilteredRecordsRevealNothing(t *testing.T) {
	for seed := range uint64(100) {
		revealNothing(t, rand.New(rand.NewPCG(seed, 1)))
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
}

func revealNothing(t *testing.T, rng *rand.Rand) {
	t.Helper()
	names := []string{"a", "B", "two words", "quo\"ted", "Ünï"}
	withheld := []string{}
	for _, name := range names {
		if rng.IntN(2) == 0 {
			withheld = append(withheld, catalog.Fold(name))
		}
	}
	slices.Sort(withheld)
	f := NewFilter(withheld, withheld, nil)
	ids := map[string]uint32{}
	next := uint32(1)
	for version := uint64(1); version < 40; version++ {
		r := &replicationv1.CommitRecord{Version: version, Epoch: 1, PreviousChecksum: make([]byte, 16)}
		if version == 1 || rng.IntN(5) == 0 {
			name := names[rng.IntN(len(names))]
			if id, there := ids[name]; there && rng.IntN(2) == 0 {
				delete(ids, name)
				r.DroppedTableIds = []uint32{id}
			} else {
				ids[name] = next
				next++
			}
			r.Catalog = randomSchema(rng, ids, withheld)
		}
		var open []string
		secret := false
		for name, id := range ids {
			if rng.IntN(2) == 0 {
				continue
			}
			text := fmt.Sprintf("open row %d of version %d", id, version)
			if slices.Contains(withheld, catalog.Fold(name)) {
				text, secret = marker+text, true
			} else {
				open = append(open, text)
			}
			r.Tables = append(r.Tables, change(id, text))
		}
		if secret {
			r.Actor, r.IdempotencyKey = marker, marker
		}
		original := encode(t, r)
		got, err := f.Record(original)
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Contains(got, []byte(marker)) {
			t.Fatalf("version %d tells: %q", version, got)
		}
		for _, text := range open {
			if !bytes.Contains(got, []byte(text)) {
				t.Fatalf("version %d lacks %q", version, text)
			}
		}
		if len(withheld) > 0 && (secret || r.Catalog != nil) {
			checkSeal(t, got, original)
		}
	}
}

func randomSchema(rng *rand.Rand, ids map[string]uint32, withheld []string) *replicationv1.Catalog {
	c := &replicationv1.Catalog{Version: 1, NextId: 1000}
	for name, id := range ids {
		text := "nothing"
		if slices.Contains(withheld, catalog.Fold(name)) {
			text = marker
		}
		quoted := []string{`"` + doubled(name, '"') + `"`, "`" + doubled(name, '`') + "`", "[" + name + "]"}[rng.IntN(3)]
		c.Tables = append(c.Tables, table(id, name))
		c.Objects = append(c.Objects,
			object("table", name, name, "CREATE TABLE "+quoted+" (id INTEGER PRIMARY KEY, c DEFAULT '"+text+"')"),
			object("index", "i"+name, name, "CREATE INDEX x ON "+quoted+" (c) WHERE c = '"+text+"'"),
			object("view", "v"+name, "v"+name, "CREATE VIEW y AS SELECT '"+text+"' FROM main."+quoted),
			object("view", "w"+name, "w"+name, "CREATE VIEW z AS SELECT '"+text+"' FROM \"v"+doubled(name, '"')+"\""),
		)
	}
	rng.Shuffle(len(c.Objects), func(i, j int) { c.Objects[i], c.Objects[j] = c.Objects[j], c.Objects[i] })
	return c
}

func doubled(name string, quote byte) string {
	var b []byte
	for i := range len(name) {
		if b = append(b, name[i]); name[i] == quote {
			b = append(b, quote)
		}
	}
	return string(b)
}

func TestRules(t *testing.T) {
	var none *Rules
	if !none.Allows(7, "eu") || none.Withheld(7, "eu") != nil {
		t.Error("no rules limit something")
	}
	d := Database{Regions: []string{"eu", "us"}, Tables: map[string][]string{"people": {"eu"}, "nowhere": {"moon"}}}
	r := none.With(7, d)
	if !r.Allows(7, "eu") || r.Allows(7, "asia") || r.Allows(7, "") || !r.Allows(8, "asia") {
		t.Error("databases")
	}
	if got := r.Withheld(7, "eu"); !slices.Equal(got, []string{"nowhere"}) {
		t.Errorf("withheld from eu: %v", got)
	}
	if got := r.Withheld(7, "us"); !slices.Equal(got, []string{"nowhere", "people"}) {
		t.Errorf("withheld from us: %v", got)
	}
	if !d.AllowsTable("PEOPLE", "eu") || d.AllowsTable("People", "us") || !d.AllowsTable("orders", "us") || d.AllowsTable("orders", "asia") {
		t.Error("tables")
	}
	if !d.SameTable("x", "y") || d.SameTable("people", "x") || !d.SameTable("People", "pEOPLE") {
		t.Error("names")
	}
	both := d.And(Database{Regions: []string{"asia"}, Tables: map[string][]string{"people": {"eu", "us"}, "other": {"us"}}})
	if both.Allows("eu") || both.Allows("asia") {
		t.Error("And allows a database where one does not")
	}
	if !allows(both.Tables["people"], "eu") || allows(both.Tables["people"], "us") || !allows(both.Tables["other"], "us") {
		t.Error("And of tables")
	}
	if r.With(7, Database{}) != nil {
		t.Error("rules that limit nothing are not nil")
	}
}

// FuzzRecord filters what is no record, or a strange one. What comes back is the input, or stands for it.
func FuzzRecord(f *testing.F) {
	f.Add([]byte{}, true)
	f.Add(encode(f, &replicationv1.CommitRecord{Version: 1, Catalog: schema(), Tables: []*replicationv1.TableChange{change(2, marker)}}), true)
	f.Add(encode(f, &replicationv1.CommitRecord{Version: 1, Tables: []*replicationv1.TableChange{change(1, marker)}}), false)
	f.Fuzz(func(t *testing.T, encoded []byte, told bool) {
		filter := NewFilter([]string{"secret"}, nil, schema())
		if told {
			filter = NewFilter([]string{"secret"}, []string{"secret"}, schema())
		}
		got, err := filter.Record(encoded)
		if err != nil || bytes.Equal(got, encoded) {
			return
		}
		checkSeal(t, got, encoded)
		var r replicationv1.CommitRecord
		if err := proto.Unmarshal(got, &r); err != nil {
			t.Fatal(err)
		}
		for _, c := range r.GetTables() {
			if c.GetTableId() == 2 && (len(c.GetRows()) > 0 || len(c.GetSum()) > 0 || c.GetRowCount() > 0) {
				t.Fatalf("rows of the withheld table: %v", c)
			}
		}
	})
}

// FuzzChecksumOf gives it any bytes: it must not panic.
func FuzzChecksumOf(f *testing.F) {
	f.Add([]byte("abc"), []byte("c"))
	f.Fuzz(func(t *testing.T, encoded, withheld []byte) {
		if _, err := ChecksumOf(encoded, withheld); err != nil && !errors.Is(err, ErrSeal) {
			t.Error(err)
		}
	})
}

func BenchmarkRecordPasses(b *testing.B) {
	encoded := encode(b, &replicationv1.CommitRecord{
		Version: 4, PreviousChecksum: make([]byte, 16), Tables: []*replicationv1.TableChange{change(1, "an open text of some bytes")},
	})
	f := NewFilter([]string{"secret"}, []string{"secret"}, schema())
	b.ReportAllocs()
	for b.Loop() {
		if _, err := f.Record(encoded); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkRecordFiltered(b *testing.B) {
	encoded := encode(b, &replicationv1.CommitRecord{
		Version: 4, PreviousChecksum: make([]byte, 16), Tables: []*replicationv1.TableChange{change(2, "an open text of some bytes")},
	})
	f := NewFilter([]string{"secret"}, []string{"secret"}, schema())
	b.ReportAllocs()
	for b.Loop() {
		if _, err := f.Record(encoded); err != nil {
			b.Fatal(err)
		}
	}
}

func TestRegionOf(t *testing.T) {
	node := identity.With(t.Context(), &identity.Principal{Kind: identity.Node, Region: "eu"})
	user := identity.With(t.Context(), &identity.Principal{Kind: identity.User})
	if RegionOf(node, "us") != "eu" || RegionOf(user, "us") != "us" || RegionOf(t.Context(), "") != "" {
		t.Error("another region than the certificate's, or none where one is said")
	}
}
