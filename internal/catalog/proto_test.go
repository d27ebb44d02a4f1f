package catalog_test

import (
	"errors"
	"math"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"

	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	replicationv1 "github.com/nearside-dev/nearside/gen/nearside/replication/v1"
	"github.com/nearside-dev/nearside/internal/catalog"
	"github.com/nearside-dev/nearside/internal/value"
)

// whole is a catalog with every field set.
func whole() *catalog.Catalog {
	return &catalog.Catalog{
		Version: 7, NextID: 30,
		Objects: []catalog.Object{
			{Type: "table", Name: "a", Table: "a", SQL: "CREATE TABLE a (id INTEGER PRIMARY KEY AUTOINCREMENT, x TEXT COLLATE NOCASE UNIQUE)"},
			{Type: "index", Name: "sqlite_autoindex_b_1", Table: "b"},
			{Type: "view", Name: `odd "name"`, Table: `odd "name"`, SQL: "CREATE VIEW \"odd \"\"name\"\"\" AS SELECT '\u00e9'"},
		},
		Schema: []catalog.SchemaRow{
			{Object: catalog.Object{Type: "table", Name: "_nearside_meta", Table: "_nearside_meta", SQL: "CREATE TABLE _nearside_meta (x)"}, Rowid: 1, RootPage: 2},
			{Object: catalog.Object{Type: "view", Name: `odd "name"`, Table: `odd "name"`, SQL: "CREATE VIEW \"odd \"\"name\"\"\" AS SELECT '\u00e9'"}, Rowid: math.MaxInt64},
		},
		Tables: []*catalog.Table{
			{
				ID: 1, Name: "a", Autoincrement: true, Identity: catalog.IdentityIntegerKey, IntegerKey: 0,
				Columns: []catalog.Column{
					{ID: 2, Name: "id", DeclaredType: "INTEGER", Affinity: catalog.AffinityInteger, NotNull: true},
					{ID: 3, Name: "x", DeclaredType: "TEXT", Affinity: catalog.AffinityText, Collation: catalog.CollationNoCase, Fill: value.TextBytes([]byte{0xff, 0})},
					{ID: 9, Name: "r", DeclaredType: "REAL", Affinity: catalog.AffinityReal, Fill: value.Real(math.Inf(-1))},
					{ID: 8, Name: "g", Generated: catalog.GeneratedVirtual, Hidden: true, Fill: value.Blob([]byte{})},
				},
				Indexes: []catalog.Index{{ID: 4, Name: "sqlite_autoindex_a_1", Unique: true, Parts: []catalog.KeyPart{{Column: 1, Collation: catalog.CollationNoCase, Desc: true}, {Column: -1}}}},
			},
			{
				ID: 5, Name: "b", WithoutRowid: true, Strict: true, Identity: catalog.IdentityDeclared, IntegerKey: -1,
				Key:     []catalog.KeyPart{{Column: 1, Desc: true}, {Column: 0, Collation: catalog.CollationRTrim}},
				Columns: []catalog.Column{{ID: 6, Name: "x", NotNull: true}, {ID: 7, Name: "y", Generated: catalog.GeneratedStored, Fill: value.Integer(math.MinInt64)}},
			},
			{
				ID: 10, Name: "c", Identity: catalog.IdentityRowid, IntegerKey: -1, ColumnsDropped: true,
				Columns: []catalog.Column{{ID: 11, Name: "x"}},
				Indexes: []catalog.Index{{ID: 12, Name: "p", Primary: true, Parts: []catalog.KeyPart{{Column: 0}}}},
			},
		},
	}
}

func TestWireFormRoundTrip(t *testing.T) {
	for _, c := range []*catalog.Catalog{{}, whole()} {
		encoded, err := proto.Marshal(c.ToProto())
		if err != nil {
			t.Fatal(err)
		}
		var p replicationv1.Catalog
		if err := proto.Unmarshal(encoded, &p); err != nil {
			t.Fatal(err)
		}
		got, err := catalog.FromProto(&p)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(c, got, cmp.Comparer(value.Equal)); diff != "" {
			t.Errorf("(-before +after):\n%s", diff)
		}
	}
}

func TestFromProtoRefuses(t *testing.T) {
	for name, change := range map[string]func(*replicationv1.Catalog_Table){
		"identity":                     func(t *replicationv1.Catalog_Table) { t.Identity = 3 },
		"integer key of no column":     func(t *replicationv1.Catalog_Table) { t.IntegerKey = 5 },
		"integer key past int32":       func(t *replicationv1.Catalog_Table) { t.IntegerKey = math.MaxUint32 },
		"integer key gone":             func(t *replicationv1.Catalog_Table) { t.IntegerKey = 0 },
		"declared key of no columns":   func(t *replicationv1.Catalog_Table) { t.Identity, t.IntegerKey = 2, 0 },
		"key beside an integer key":    func(t *replicationv1.Catalog_Table) { t.Key = []*replicationv1.Catalog_KeyPart{{Column: 1}} },
		"affinity":                     func(t *replicationv1.Catalog_Table) { t.Columns[0].Affinity = 5 },
		"collation":                    func(t *replicationv1.Catalog_Table) { t.Columns[0].Collation = 3 },
		"generated":                    func(t *replicationv1.Catalog_Table) { t.Columns[0].Generated = 3 },
		"two columns with an id":       func(t *replicationv1.Catalog_Table) { t.Columns[1].Id = t.Columns[0].Id },
		"index on no column":           func(t *replicationv1.Catalog_Table) { t.Indexes[0].Parts[0].Column = 5 },
		"index with another collation": func(t *replicationv1.Catalog_Table) { t.Indexes[0].Parts[0].Collation = 9 },
	} {
		t.Run(name, func(t *testing.T) {
			p := whole().ToProto()
			change(p.Tables[0])
			if _, err := catalog.FromProto(p); !errors.Is(err, catalog.ErrInvalid) || !strings.Contains(err.Error(), `table "a"`) {
				t.Errorf("got %v", err)
			}
		})
	}
}

// FuzzFromProto decodes what another process may have sent: it must not panic, and what it takes must survive the wire and be
// good enough to look names up in.
func FuzzFromProto(f *testing.F) {
	for _, c := range []*catalog.Catalog{{}, whole()} {
		encoded, err := proto.Marshal(c.ToProto())
		if err != nil {
			f.Fatal(err)
		}
		f.Add(encoded)
	}
	for _, p := range []*replicationv1.Catalog{
		{Tables: []*replicationv1.Catalog_Table{{}}},
		{Tables: []*replicationv1.Catalog_Table{{IntegerKey: math.MaxUint32, Identity: 1}}},
		{Tables: []*replicationv1.Catalog_Table{{Identity: 2, Key: []*replicationv1.Catalog_KeyPart{{}}}}},
		{Tables: []*replicationv1.Catalog_Table{{Columns: []*replicationv1.Catalog_Column{{Fill: &datav1.Value{}}}}}},
	} {
		encoded, err := proto.Marshal(p)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(encoded)
	}
	f.Fuzz(func(t *testing.T, encoded []byte) {
		var p replicationv1.Catalog
		if proto.Unmarshal(encoded, &p) != nil {
			return
		}
		c, err := catalog.FromProto(&p)
		if err != nil {
			if !errors.Is(err, catalog.ErrInvalid) {
				t.Fatalf("another error: %v", err)
			}
			return
		}
		again, err := catalog.FromProto(c.ToProto())
		if err != nil {
			t.Fatalf("what was taken is refused: %v", err)
		}
		if !proto.Equal(c.ToProto(), again.ToProto()) {
			t.Fatalf("round trip:\n%s", cmp.Diff(c, again, cmp.Comparer(value.Equal)))
		}
		for _, table := range c.Tables {
			table.Describe()
			table.ResultColumns()
			for _, part := range table.KeyColumns() {
				if part.Column >= len(table.Columns) {
					t.Fatalf("key column %d of %d", part.Column, len(table.Columns))
				}
			}
			if table.IntegerKey >= len(table.Columns) {
				t.Fatalf("integer key %d of %d columns", table.IntegerKey, len(table.Columns))
			}
		}
	})
}
