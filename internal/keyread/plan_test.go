package keyread

import (
	"math"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/internal/catalog"
	"github.com/nearside-dev/nearside/internal/rowcodec"
	"github.com/nearside-dev/nearside/internal/rpcerr"
	"github.com/nearside-dev/nearside/internal/value"
)

const (
	reasonTable = datav1.ErrorReason_ERROR_REASON_TABLE_NOT_FOUND
	reasonIndex = datav1.ErrorReason_ERROR_REASON_INDEX_NOT_FOUND
	reasonField = datav1.ErrorReason_ERROR_REASON_FIELD_INVALID
	reasonToken = datav1.ErrorReason_ERROR_REASON_PAGE_TOKEN_INVALID
)

// testCatalog has a table for each identity:
//
//	users (id INTEGER PRIMARY KEY, email TEXT COLLATE NOCASE UNIQUE, age INT, score REAL)
//	pairs (a TEXT NOT NULL, b, PRIMARY KEY (a, b DESC)) WITHOUT ROWID
//	notes (body TEXT)
func testCatalog() *catalog.Catalog {
	users := &catalog.Table{
		ID: 10, Name: "Users", Identity: catalog.IdentityIntegerKey, IntegerKey: 0,
		Columns: []catalog.Column{
			{ID: 1, Name: "id", DeclaredType: "INTEGER", Affinity: catalog.AffinityInteger},
			{
				ID: 2, Name: "email", DeclaredType: "TEXT", Affinity: catalog.AffinityText,
				Collation: catalog.CollationNoCase,
			},
			{ID: 3, Name: "age", DeclaredType: "INT", Affinity: catalog.AffinityInteger},
			{ID: 4, Name: "score", DeclaredType: "REAL", Affinity: catalog.AffinityReal},
			{ID: 5, Name: "secret", Hidden: true},
		},
		Indexes: []catalog.Index{
			{ID: 20, Name: "by_email", Unique: true, Parts: []catalog.KeyPart{{Column: 1, Collation: catalog.CollationNoCase}}},
			{ID: 21, Name: "by_age_score", Parts: []catalog.KeyPart{{Column: 2}, {Column: 3, Desc: true}}},
			{ID: 22, Name: "by_score", Unique: true, Parts: []catalog.KeyPart{{Column: 3}}},
		},
	}
	pairs := &catalog.Table{
		ID: 11, Name: "pairs", WithoutRowid: true, Identity: catalog.IdentityDeclared, IntegerKey: -1,
		Key: []catalog.KeyPart{{Column: 0}, {Column: 1, Desc: true}},
		Columns: []catalog.Column{
			{ID: 1, Name: "a", DeclaredType: "TEXT", Affinity: catalog.AffinityText, NotNull: true},
			{ID: 2, Name: "b", NotNull: true},
		},
	}
	notes := &catalog.Table{
		ID: 12, Name: "notes", Identity: catalog.IdentityRowid, IntegerKey: -1,
		Columns: []catalog.Column{{ID: 1, Name: "body", DeclaredType: "TEXT", Affinity: catalog.AffinityText}},
		Indexes: []catalog.Index{{ID: 20, Name: "by_body", Parts: []catalog.KeyPart{{Column: 0, Collation: catalog.CollationRTrim}}}},
	}
	return &catalog.Catalog{Version: 1, Tables: []*catalog.Table{users, notes, pairs}}
}

func protos(values ...any) []*datav1.Value {
	ps := make([]*datav1.Value, len(values))
	for i, v := range values {
		switch v := v.(type) {
		case nil:
			ps[i] = &datav1.Value{}
		case int:
			ps[i] = value.ToProto(value.Integer(int64(v)))
		case float64:
			ps[i] = value.ToProto(value.Real(v))
		case string:
			ps[i] = value.ToProto(value.Text(v))
		case []byte:
			ps[i] = value.ToProto(value.Blob(v))
		}
	}
	return ps
}

func bound(exclusive bool, values ...any) *datav1.ListRequest_Bound {
	return &datav1.ListRequest_Bound{Values: protos(values...), Exclusive: exclusive}
}

func TestPlanGet(t *testing.T) {
	cat := testCatalog()
	tests := []struct {
		name  string
		table string
		index string
		key   []any
		want  []value.Value
		never bool
	}{
		{name: "integer key", table: "users", key: []any{7}, want: []value.Value{value.Integer(7)}},
		{name: "text becomes number", table: "USERS", key: []any{" 7 "}, want: []value.Value{value.Integer(7)}},
		{name: "text no number", table: "users", key: []any{"x"}, want: []value.Value{value.Text("x")}},
		{name: "null", table: "users", key: []any{nil}, want: []value.Value{value.Null()}, never: true},
		{
			name: "number becomes text", table: "users", index: "BY_EMAIL", key: []any{5},
			want: []value.Value{value.Text("5")},
		},
		{
			name: "integer not rounded for a real", table: "users", index: "by_score", key: []any{1<<53 + 1},
			want: []value.Value{value.Integer(1<<53 + 1)},
		},
		{
			name: "no affinity", table: "pairs", key: []any{1.5, "2"},
			want: []value.Value{value.Text("1.5"), value.Text("2")},
		},
		{name: "rowid", table: "notes", key: []any{"3.0"}, want: []value.Value{value.Integer(3)}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			plan, err := PlanGet(cat, tt.table, &datav1.Key{Values: protos(tt.key...), Index: tt.index})
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, plan.Values, cmp.Comparer(value.Equal)); diff != "" {
				t.Errorf("values (-want +got):\n%s", diff)
			}
			if plan.Never != tt.never {
				t.Errorf("never = %v, want %v", plan.Never, tt.never)
			}
			if (plan.Index != nil) != (tt.index != "") {
				t.Errorf("index = %v", plan.Index)
			}
		})
	}
}

// A stored REAL is found by the integers that equal it, and not by those it would round to it.
func TestGetPlanKeyIsExact(t *testing.T) {
	cat := testCatalog()
	users := cat.TableByName("users")
	row := rowcodec.Row{Rowid: 1, Values: []value.Value{
		value.Integer(1), value.Null(), value.Null(), value.Real(1 << 53), value.Null(),
	}}
	entry := string(rowcodec.AppendIndexKey(nil, users, &users.Indexes[2], row, nil))
	for key, want := range map[any]bool{
		1 << 53: true, 1<<53 + 1: false, float64(1 << 53): true, "9007199254740992": true, math.Inf(1): false,
	} {
		plan, err := PlanGet(cat, "users", &datav1.Key{Values: protos(key), Index: "by_score"})
		if err != nil {
			t.Fatal(err)
		}
		if got := string(plan.AppendKey(nil)) == entry; got != want {
			t.Errorf("key %v finds the row: %v, want %v", key, got, want)
		}
	}
}

func TestPlanErrors(t *testing.T) {
	cat := testCatalog()
	get := func(table, index string, key ...any) error {
		_, err := PlanGet(cat, table, &datav1.Key{Values: protos(key...), Index: index})
		return err
	}
	list := func(req *datav1.ListRequest) error {
		_, err := PlanList(cat, req)
		return err
	}
	_, noKeys := PlanBatchGet(cat, "users", nil)
	_, batchErr := PlanBatchGet(cat, "users", []*datav1.Key{{Values: protos(1)}, {Values: protos(1, 2)}})
	tests := []struct {
		name   string
		err    error
		reason rpcerr.Reason
		text   string
	}{
		{"table", get("nope", "", 1), reasonTable, "nope"},
		{"index", get("users", "nope", 1), reasonIndex, "nope"},
		{"index not unique", get("users", "by_age_score", 1, 2), reasonIndex, "not unique"},
		{"too few values", get("pairs", "", 1), reasonField, "key.values: "},
		{"no values", get("users", ""), reasonField, "key.values: "},
		{"text as rowid", get("notes", "", "u_1"), reasonField, "rowid"},
		{"batch", batchErr, reasonField, "keys[1].values: "},
		{"empty batch", noKeys, reasonField, "keys: "},
		{"list table", list(&datav1.ListRequest{Table: "nope"}), reasonTable, "nope"},
		{"list index", list(&datav1.ListRequest{Table: "users", Index: "nope"}), reasonIndex, "nope"},
		{"prefix", list(&datav1.ListRequest{Table: "users", Prefix: protos(1, 2)}), reasonField, "prefix: "},
		{"empty start", list(&datav1.ListRequest{Table: "users", Start: bound(true)}), reasonField, "start.values: "},
		{
			"long end", list(&datav1.ListRequest{Table: "pairs", Prefix: protos("a"), End: bound(false, 1, 2)}),
			reasonField, "end.values: ",
		},
		{"page size", list(&datav1.ListRequest{Table: "users", PageSize: MaxPageSize + 1}), reasonField, "page_size: "},
		{"token", list(&datav1.ListRequest{Table: "users", PageToken: "AAAA"}), reasonToken, "page_token"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := rpcerr.ReasonOf(tt.err); got != tt.reason {
				t.Fatalf("reason %v, want %v (%v)", got, tt.reason, tt.err)
			}
			if !strings.Contains(tt.err.Error(), tt.text) {
				t.Errorf("%q does not contain %q", tt.err, tt.text)
			}
		})
	}
}
