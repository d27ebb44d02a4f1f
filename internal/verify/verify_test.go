package verify

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	controlv1 "github.com/nearside-dev/nearside/gen/nearside/control/v1"
	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/internal/catalog"
	"github.com/nearside-dev/nearside/internal/meshdb"
	"github.com/nearside-dev/nearside/internal/rowcodec"
	"github.com/nearside-dev/nearside/internal/rpcerr"
	"github.com/nearside-dev/nearside/internal/value"
)

func testTable() *catalog.Table {
	return &catalog.Table{
		ID: 3, Name: "t", WithoutRowid: true, Identity: catalog.IdentityDeclared, IntegerKey: -1,
		Key:     []catalog.KeyPart{{Column: 0}, {Column: 1, Desc: true}},
		Columns: []catalog.Column{{ID: 4, Name: "a"}, {ID: 5, Name: "b"}, {ID: 6, Name: "c"}},
		Indexes: []catalog.Index{{ID: 7, Name: "t_c", Parts: []catalog.KeyPart{{Column: 2}}}},
	}
}

func TestKeyText(t *testing.T) {
	table := testTable()
	row := func(a, b value.Value) []byte {
		return rowcodec.AppendRowKey(nil, table, rowcodec.Row{Values: []value.Value{a, b, value.Null()}})
	}
	entry := rowcodec.AppendIndexKey(nil, table, &table.Indexes[0], rowcodec.Row{
		Values: []value.Value{value.Integer(1), value.Integer(2), value.Null()},
	}, row(value.Integer(1), value.Integer(2)))
	rows, entries := Place{Table: table}, Place{Table: table, Index: &table.Indexes[0]}
	for _, tc := range []struct {
		at   Place
		key  []byte
		want string
	}{
		{rows, row(value.Integer(-7), value.Text("it's")), "-7, 'it''s'"},
		{rows, row(value.Real(1.5), value.Blob([]byte{0, 255})), "1.5, x'00ff'"},
		{entries, entry, "NULL, 1, 2"},
		{rows, []byte{0xfe, 1}, "hex:fe01"},
		{rows, append(row(value.Integer(1), value.Integer(2)), 9), "hex:"},
		{Place{}, []byte{1}, "hex:01"},
	} {
		if got := KeyText(tc.at, tc.key); got != tc.want && (tc.want != "hex:" || !strings.HasPrefix(got, "hex:")) {
			t.Errorf("%x is %q, want %q", tc.key, got, tc.want)
		}
	}
	if got := KeyText(rows, row(value.Text(strings.Repeat("ü", 1000)), value.Null())); len(got) > maxTextBytes+len("…") {
		t.Errorf("%d bytes of key", len(got))
	}
}

// FuzzKeyText checks that no bytes break it: they may be a damaged key's.
func FuzzKeyText(f *testing.F) {
	table := testTable()
	f.Add([]byte{}, false)
	f.Add(rowcodec.AppendRowKey(nil, table, rowcodec.Row{Values: []value.Value{value.Text("x"), value.Real(2), value.Null()}}), false)
	f.Add([]byte("\xff\x00garbage"), true)
	f.Fuzz(func(t *testing.T, key []byte, index bool) {
		at := Place{Table: table}
		if index {
			at.Index = &table.Indexes[0]
		}
		if got := KeyText(at, key); len(got) > maxTextBytes+len("…") {
			t.Errorf("%d bytes of text for %d of key", len(got), len(key))
		}
	})
}

func TestFindingsAreBounded(t *testing.T) {
	var f Findings
	table := testTable()
	const kind = controlv1.FindingKind_FINDING_KIND_ROW_EXTRA
	for i := range 100 {
		f.Key(kind, Place{Table: table}, rowcodec.AppendRowKey(nil, table, rowcodec.Row{
			Values: []value.Value{value.Integer(int64(i)), value.Null(), value.Null()},
		}))
	}
	got := f.List()
	if len(got) != 1 || got[0].GetCount() != 100 {
		t.Fatalf("%v", got)
	}
	want := []string{"0, NULL", "1, NULL", "2, NULL", "3, NULL", "4, NULL"}
	if diff := cmp.Diff(want, got[0].GetKeys()); diff != "" {
		t.Error(diff)
	}
	for i := range 2 * maxFindings {
		f.Detail(kind, Place{Table: &catalog.Table{Name: fmt.Sprint(i)}}, "x")
	}
	if n := len(f.List()); n != maxFindings {
		t.Errorf("%d findings", n)
	}
}

func TestGate(t *testing.T) {
	g := NewGate(2, "things run")
	first, err := g.Enter()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := g.Enter(); err != nil {
		t.Fatal(err)
	}
	if _, err := g.Enter(); rpcerr.ReasonOf(err) != datav1.ErrorReason_ERROR_REASON_OVERLOADED {
		t.Errorf("the third: %v", err)
	}
	first()
	if _, err := g.Enter(); err != nil {
		t.Errorf("after one left: %v", err)
	}
}

func TestKindNames(t *testing.T) {
	for n, name := range controlv1.FindingKind_name {
		if got := KindName(controlv1.FindingKind(n)); got == "" || strings.Contains(got, "_") || got != strings.ToLower(got) {
			t.Errorf("%s is %q", name, got)
		}
	}
}

func TestRegions(t *testing.T) {
	regions := []meshdb.Region{{Name: "a"}, {Name: "b"}}
	if err := CheckRegions(&controlv1.VerifyRequest{Regions: []string{"b"}}, regions); err != nil {
		t.Error(err)
	}
	err := CheckRegions(&controlv1.VerifyRequest{Regions: []string{"b", "c"}}, regions)
	if rpcerr.ReasonOf(err) != datav1.ErrorReason_ERROR_REASON_FIELD_INVALID {
		t.Errorf("unknown region: %v", err)
	}
	if Wanted(&controlv1.VerifyRequest{Regions: []string{"b"}}, "a") || !Wanted(&controlv1.VerifyRequest{}, "a") {
		t.Error("wrong regions are wanted")
	}
}
