package sqllogictest

import (
	"context"
	"errors"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/nearside-dev/nearside/internal/sqlite"
	"github.com/nearside-dev/nearside/internal/value"
)

// plain is a Side without a mesh: one connection is the primary and the region.
type plain struct {
	conn   *sqlite.Conn
	wrong  bool  // the region answers wrongly
	broken error // what the way to the region fails with
}

func (p *plain) Execute(_ context.Context, sql string) error {
	if err := p.conn.Exec(sql); err != nil {
		return errors.Join(ErrStatement, err)
	}
	return nil
}

func (p *plain) Query(_ context.Context, sql string, edge bool) (rows [][]value.Value, fallback bool, err error) {
	if edge && p.broken != nil {
		return nil, false, p.broken
	}
	st, _, err := p.conn.Prepare(sql)
	if err != nil {
		return nil, false, errors.Join(ErrStatement, err)
	}
	defer func() { err = errors.Join(err, st.Finalize()) }()
	for {
		row, err := st.Step()
		if err != nil {
			return nil, false, errors.Join(ErrStatement, err)
		}
		if !row {
			break
		}
		var values []value.Value
		for i := range st.ColumnCount() {
			values = append(values, st.Column(i))
		}
		rows = append(rows, values)
	}
	if edge && p.wrong {
		rows = append(rows, rows...)
	}
	return rows, edge && strings.Contains(sql, "page_count"), nil
}

func run(t *testing.T, p *plain, edge bool) Report {
	t.Helper()
	conn, err := sqlite.Open(":memory:", sqlite.ReadWrite|sqlite.Create)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := conn.Close(); err != nil {
			t.Error(err)
		}
	}()
	p.conn = conn
	file, err := os.Open(filepath.Join("testdata", "sample.test"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = file.Close() }()
	r, err := Run(t.Context(), file, p, edge)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestRun(t *testing.T) {
	want := Report{Passed: 12, Skipped: 2, Queries: 8}
	if diff := cmp.Diff(want, run(t, &plain{}, false)); diff != "" {
		t.Errorf("without a region (-want +got):\n%s", diff)
	}
	want.Fallbacks = 1
	if diff := cmp.Diff(want, run(t, &plain{}, true)); diff != "" {
		t.Errorf("with a region (-want +got):\n%s", diff)
	}
	if r := run(t, &plain{wrong: true}, true); r.Failed != 7 || r.Passed != 5 || len(r.Failures) != 7 {
		t.Errorf("a region that answers wrongly: %+v", r)
	}
	if r := run(t, &plain{broken: errors.New("cut")}, true); r.Failed != 8 {
		t.Errorf("a region that cannot be reached: %+v", r)
	}
}

func TestParseErrors(t *testing.T) {
	for _, text := range []string{
		"statement\nSELECT 1", "statement maybe\nSELECT 1", "query\nSELECT 1", "query X\nSELECT 1", "query I upwards\nSELECT 1",
		"query I nosort a b\nSELECT 1", "statement ok\n\n", "skipif\n", "onlyif a b\n", "nonsense\n", "statement ok",
	} {
		p := NewParser(strings.NewReader(text))
		for p.Next() {
		}
		if p.Err() == nil {
			t.Errorf("%q is no error", text)
		}
	}
}

func TestFormat(t *testing.T) {
	for _, tt := range []struct {
		v    value.Value
		as   byte
		bits int
		want string
	}{
		{value.Null(), 'I', 64, "NULL"},
		{value.Integer(1 << 40), 'I', 64, "1099511627776"},
		{value.Integer(1<<40 + 5), 'I', 32, "5"},
		{value.Real(-2.9), 'I', 64, "-2"},
		{value.Real(1e300), 'I', 64, "9223372036854775807"},
		{value.Text(" 12abc"), 'I', 64, "12"},
		{value.Text("x"), 'I', 64, "0"},
		{value.Integer(3), 'R', 64, "3.000"},
		{value.Text("1.5x"), 'R', 64, "1.500"},
		{value.Real(0.0005), 'R', 64, "0.001"},
		{value.Real(1e15 / 3), 'R', 64, "333333333333333.300"},
		{value.Real(-1 << 63), 'R', 64, "-9223372036854776000.000"},
		{value.Real(math.Inf(1)), 'R', 64, "+Inf"},
		{value.Text(""), 'T', 64, "(empty)"},
		{value.Text("a\nb\xff"), 'T', 64, "a@b@"},
		{value.Real(2), 'T', 64, "2.0"},
		{value.Integer(2), 'T', 64, "2"},
	} {
		if got := format(tt.v, tt.as, tt.bits); got != tt.want {
			t.Errorf("%v %v as %c: %q, want %q", tt.v.Kind(), tt.v, tt.as, got, tt.want)
		}
	}
}

// FuzzParse looks for files that are read without end or make the parser panic, and for records that contradict themselves.
func FuzzParse(f *testing.F) {
	sample, err := os.ReadFile(filepath.Join("testdata", "sample.test"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(string(sample))
	f.Add("query I nosort\r\nSELECT 1\r\n----\r\n1\r\n")
	f.Add("query I\nSELECT 1\n----")
	f.Fuzz(func(t *testing.T, text string) {
		p := NewParser(strings.NewReader(text))
		for p.Next() {
			r := p.Record()
			if r.SQL == "" || r.Kind != Query && r.Checked || r.Line < 1 {
				t.Errorf("%+v", r)
			}
			if err := r.Check(nil); err == nil && r.Checked && len(r.Expected) > 1 {
				t.Errorf("no rows are %q", r.Expected)
			}
		}
	})
}
