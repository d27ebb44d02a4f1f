package client

import (
	"database/sql"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"

	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
)

func columns(names ...string) []*datav1.Column {
	list := make([]*datav1.Column, len(names))
	for i, name := range names {
		list[i] = &datav1.Column{Name: name}
	}
	return list
}

// scanOne scans a row of Go values.
func scanOne[T any](t *testing.T, names []string, values ...any) (T, error) {
	t.Helper()
	row := &datav1.Row{Version: 7}
	for _, v := range values {
		p, err := Value(v)
		if err != nil {
			t.Fatal(err)
		}
		row.Values = append(row.Values, p)
	}
	s, err := newScanner[T](columns(names...))
	if err != nil {
		var none T
		return none, err
	}
	return s.scan(row)
}

type Address struct{ Town string }

func TestScan(t *testing.T) {
	type row struct {
		FullName string
		Email    *string
		Balance  float64
		Active   bool
		Avatar   []byte
		Note     sql.NullString
		Small    int8
		Any      any
		At       time.Time `db:"created_at"`
		Version  uint64    `db:",version"`
		Secret   string    `db:"-"`
		Address
	}
	at := time.Date(2026, 2, 3, 4, 5, 6, 7000, time.UTC)
	email := "ada@example.com"
	names := []string{"full_name", "EMAIL", "balance", "active", "avatar", "note", "small", "any", "created_at", "town"}
	got, err := scanOne[row](t, names, "Ada", email, 2, true, []byte{1, 2}, nil, -128, 1.5, at, "Bern")
	want := row{
		FullName: "Ada", Email: &email, Balance: 2, Active: true, Avatar: []byte{1, 2}, Small: -128, Any: 1.5, At: at, Version: 7,
		Address: Address{Town: "Bern"},
	}
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Errorf("%v %s", err, diff)
	}
	back, err := columnsOf(&got)
	if err != nil || len(back) != len(names) || back["full_name"].GetText() != "Ada" || back["secret"] != nil || back["version"] != nil {
		t.Errorf("columns to write: %v, %v", back, err)
	}
}

func TestScanShapes(t *testing.T) {
	if got, err := scanOne[map[string]any](t, []string{"a", "b"}, 1, nil); err != nil || !cmp.Equal(got, map[string]any{"a": int64(1), "b": nil}) {
		t.Errorf("map: %v, %v", got, err)
	}
	if got, err := scanOne[[]any](t, []string{"a", "a"}, "x", 2.5); err != nil || !cmp.Equal(got, []any{"x", 2.5}) {
		t.Errorf("list: %v, %v", got, err)
	}
	if got, err := scanOne[*string](t, []string{"a"}, nil); err != nil || got != nil {
		t.Errorf("pointer: %v, %v", got, err)
	}
	if got, err := scanOne[sql.NullInt64](t, []string{"a"}, 4); err != nil || got.Int64 != 4 || !got.Valid {
		t.Errorf("scanner: %v, %v", got, err)
	}
	if got, err := scanOne[time.Time](t, []string{"a"}, "2026-01-02 03:04:05.5"); err != nil || got.UnixMilli() != 1767323045500 {
		t.Errorf("time: %v, %v", got, err)
	}
	if got, err := scanOne[any](t, []string{"a"}, math.MaxInt64); err != nil || got != int64(math.MaxInt64) {
		t.Errorf("any: %v, %v", got, err)
	}
	if got, err := scanOne[int](t, []string{"a"}, 3.0); err != nil || got != 3 {
		t.Errorf("a whole real: %v, %v", got, err)
	}
	if got, err := scanOne[string](t, []string{"a"}, "\xff"); err != nil || got != "\xff" {
		t.Errorf("text that is not UTF-8: %q, %v", got, err)
	}
}

func TestScanErrors(t *testing.T) {
	type narrow struct{ A int8 }
	type twice struct {
		UserID int64
	}
	for _, test := range []struct {
		name, want string
		err        func() error
	}{
		{"column without field", "no field for column b", func() error { _, err := scanOne[narrow](t, []string{"b"}, 1); return err }},
		{"too large", "column A: 128 is more than int8 holds", func() error { _, err := scanOne[narrow](t, []string{"A"}, 128); return err }},
		{"two columns for a field", "both go into", func() error { _, err := scanOne[twice](t, []string{"user_id", "userid"}, 1, 2); return err }},
		{"two columns of a name", "two columns a", func() error { _, err := scanOne[map[string]any](t, []string{"a", "a"}, 1, 2); return err }},
		{"NULL", "NULL does not go into string", func() error { _, err := scanOne[string](t, []string{"a"}, nil); return err }},
		{"text for a number", "text does not go into int", func() error { _, err := scanOne[int](t, []string{"a"}, "1"); return err }},
		{"not whole", "a real does not go into int", func() error { _, err := scanOne[int](t, []string{"a"}, 1.5); return err }},
		{"real beyond integers", "a real does not go into int64", func() error { _, err := scanOne[int64](t, []string{"a"}, 9.3e18); return err }},
		{"negative", "uint8 does not hold -1", func() error { _, err := scanOne[uint8](t, []string{"a"}, -1); return err }},
		{"not exact", "exactly", func() error { _, err := scanOne[float64](t, []string{"a"}, 1<<53+1); return err }},
		{"no bool", "an integer does not go into bool", func() error { _, err := scanOne[bool](t, []string{"a"}, 2); return err }},
		{"no time", "the text is no time", func() error { _, err := scanOne[time.Time](t, []string{"a"}, "now"); return err }},
		{"several columns", "takes one column, there are 2", func() error { _, err := scanOne[int](t, []string{"a", "b"}, 1, 2); return err }},
		{"no row to write", "no row", func() error { _, err := columnsOf(3); return err }},
		{"unsigned", "more than an integer", func() error { _, err := Value(uint64(math.MaxUint64)); return err }},
		{"no value", "no value of a database", func() error { _, err := Value(make(chan int)); return err }},
		{"no key", "at least one value", func() error { return Delete("t").err }},
		{"condition on a statement", "WHERE", func() error { return Exec("SELECT 1").IfAbsent().err }},
	} {
		if err := test.err(); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: error %v, want %q", test.name, err, test.want)
		}
	}
}

func TestStatement(t *testing.T) {
	type level int16
	var missing *int
	st, err := statement("…", []any{level(3), missing, "x", []byte(nil), math.NaN(), sql.Named("n", true), sql.NullInt64{}})
	if err != nil {
		t.Fatal(err)
	}
	null := &datav1.Value{}
	want := &datav1.Statement{
		Sql: "…", Parameters: []*datav1.Value{integer(3), null, text("x"), null, null, null},
		NamedParameters: map[string]*datav1.Value{"n": integer(1)},
	}
	if diff := cmp.Diff(want, st, protocmp.Transform()); diff != "" {
		t.Error(diff)
	}
}

func TestColumnNames(t *testing.T) {
	for name, want := range map[string]string{
		"ID": "id", "UserID": "user_id", "HTTPServer": "http_server", "Name": "name", "Line2Text": "line2_text",
	} {
		if got := (field{name: name}).column(); got != want {
			t.Errorf("%s is column %s, want %s", name, got, want)
		}
	}
}

func BenchmarkScanStruct(b *testing.B) {
	type row struct {
		ID    int64
		Name  string
		Email *string
		Cents int64
	}
	s, err := newScanner[row](columns("id", "name", "email", "cents"))
	if err != nil {
		b.Fatal(err)
	}
	r := &datav1.Row{Values: []*datav1.Value{integer(1), text("Ada"), text("ada@example.com"), integer(2)}}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := s.scan(r); err != nil {
			b.Fatal(err)
		}
	}
}
