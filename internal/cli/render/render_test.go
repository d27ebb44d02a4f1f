package render

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"math"
	"strconv"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"

	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/internal/value"
)

func result(columns []string, rows ...[]value.Value) *datav1.ResultSet {
	r := &datav1.ResultSet{}
	for _, name := range columns {
		r.Columns = append(r.Columns, &datav1.Column{Name: name})
	}
	for _, row := range rows {
		r.Rows = append(r.Rows, &datav1.Row{Values: value.ToProtos(row)})
	}
	return r
}

func TestAppendResult(t *testing.T) {
	read := &datav1.Answer{
		Bookmark: "b1", Region: "eu-west-1", Source: datav1.Source_SOURCE_REPLICA, StalenessMs: 3, SqlMs: 0.12,
	}
	write := result(nil)
	write.RowsAffected = 2
	write.LastInsertRowid = proto.Int64(math.MaxInt64)
	for _, test := range []struct {
		name   string
		result *datav1.ResultSet
		answer *datav1.Answer
		want   string
	}{
		{
			"read", result([]string{"a"}, []value.Value{value.Integer(1)}), read,
			`{"columns":["a"],"rows":[[1]],"rowsAffected":0,"lastInsertRowid":null,"bookmark":"b1","region":"eu-west-1",` +
				`"source":"REPLICA","servedByPrimary":false,"stalenessMs":3,"sqlMs":0.12}`,
		},
		{
			"write", write, &datav1.Answer{Bookmark: "b2", Region: "us-east-1", ServedByPrimary: true},
			`{"columns":[],"rows":[],"rowsAffected":2,"lastInsertRowid":9223372036854775807,"bookmark":"b2",` +
				`"region":"us-east-1","source":"PRIMARY","servedByPrimary":true,"stalenessMs":0,"sqlMs":0}`,
		},
		{
			"no rows", result([]string{"a", "a", `"`}), read,
			`{"columns":["a","a","\""],"rows":[],"rowsAffected":0,"lastInsertRowid":null,"bookmark":"b1","region":"eu-west-1",` +
				`"source":"REPLICA","servedByPrimary":false,"stalenessMs":3,"sqlMs":0.12}`,
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			if diff := cmp.Diff(test.want, string(AppendResult(nil, test.result, test.answer))); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestAppendValue(t *testing.T) {
	for _, test := range []struct {
		v    value.Value
		want string
	}{
		{value.Null(), `null`},
		{value.Integer(0), `0`},
		{value.Integer(math.MinInt64), `-9223372036854775808`},
		{value.Integer(1<<53 + 1), `9007199254740993`},
		{value.Real(0), `0.0`},
		{value.Real(math.Copysign(0, -1)), `-0.0`},
		{value.Real(1), `1.0`},
		{value.Real(-2.5), `-2.5`},
		{value.Real(0.1), `0.1`},
		{value.Real(0.30000000000000004), `0.30000000000000004`},
		{value.Real(1e15), `1000000000000000.0`},
		{value.Real(1e20), `100000000000000000000.0`},
		{value.Real(1e21), `1e+21`},
		{value.Real(1e-6), `0.000001`},
		{value.Real(1e-7), `1e-07`},
		{value.Real(1 << 63), `9223372036854776000.0`},
		{value.Real(math.MaxFloat64), `1.7976931348623157e+308`},
		{value.Real(math.SmallestNonzeroFloat64), `5e-324`},
		{value.Real(math.Inf(1)), `{"real":"Inf"}`},
		{value.Real(math.Inf(-1)), `{"real":"-Inf"}`},
		{value.Text(""), `""`},
		{value.Text("<&> ü 日本 🙂"), `"<&> ü 日本 🙂"`},
		{value.Text("a\"\\\n\r\t\x00\x1b\x7f"), `"a\"\\\n\r\t\u0000\u001b\u007f"`},
		{value.Text("\u2028\ufffd"), "\"\u2028\ufffd\""},
		{value.TextBytes([]byte{'a', 0xff}), `{"base64":"Yf8="}`},
		{value.Blob(nil), `{"base64":""}`},
		{value.Blob([]byte{0, 255, 16}), `{"base64":"AP8Q"}`},
	} {
		got := string(appendValue(nil, value.ToProto(test.v)))
		if got != test.want {
			t.Errorf("%v %q: got %s, want %s", test.v.Kind(), test.v.Text(), got, test.want)
		}
		if !json.Valid([]byte(got)) {
			t.Errorf("%s is not JSON", got)
		}
	}
	if got := string(appendValue(nil, nil)); got != "null" {
		t.Errorf("no value: got %s", got)
	}
}

func FuzzValue(f *testing.F) {
	f.Add(uint64(0), []byte("a"))
	f.Add(math.Float64bits(1e21), []byte("\xff\x00\""))
	f.Add(math.Float64bits(math.Inf(-1)), []byte("日\u2028"))
	f.Add(uint64(math.MaxInt64), []byte{})
	f.Fuzz(func(t *testing.T, bits uint64, b []byte) {
		float := math.Float64frombits(bits)
		row := []value.Value{value.Integer(int64(bits)), value.Real(float), value.TextBytes(b), value.Blob(b)}
		line := AppendResult(nil, result([]string{"i", "r", "t", "b"}, row), nil)
		if bytes.IndexByte(line, '\n') >= 0 {
			t.Fatalf("more than one line: %q", line)
		}
		var got struct{ Rows [][]json.RawMessage }
		if err := json.Unmarshal(line, &got); err != nil {
			t.Fatalf("%v in %q", err, line)
		}
		cells := got.Rows[0]
		if string(cells[0]) != strconv.FormatInt(int64(bits), 10) {
			t.Errorf("integer %d became %s", int64(bits), cells[0])
		}
		if !math.IsNaN(float) && !math.IsInf(float, 0) {
			if back, err := strconv.ParseFloat(string(cells[1]), 64); err != nil || math.Float64bits(back) != bits {
				t.Errorf("float %v became %s", float, cells[1])
			}
			if !strings.ContainsAny(string(cells[1]), ".e") {
				t.Errorf("float %v became the integer %s", float, cells[1])
			}
		}
		if utf8.Valid(b) {
			var s string
			if err := json.Unmarshal(cells[2], &s); err != nil || s != string(b) {
				t.Errorf("text %q became %s", b, cells[2])
			}
		}
		var blob struct{ Base64 string }
		if err := json.Unmarshal(cells[3], &blob); err != nil {
			t.Fatal(err)
		}
		if back, err := base64.StdEncoding.DecodeString(blob.Base64); err != nil || !bytes.Equal(back, b) {
			t.Errorf("blob %x became %s", b, cells[3])
		}
	})
}

func TestResultTable(t *testing.T) {
	r := result([]string{"id", "name", "x"},
		[]value.Value{value.Integer(1), value.Text("日本"), value.Null()},
		[]value.Value{value.Integer(1000), value.Text("a\x1b[2J\nb"), value.Blob([]byte{0xde, 0xad})},
		[]value.Value{value.Null(), value.Text(strings.Repeat("x", 300)), value.Real(math.Inf(-1))},
		[]value.Value{value.Integer(2), value.TextBytes([]byte{0xff, 'z'}), value.Real(2)},
	)
	var out strings.Builder
	if err := ResultTable(&out, r); err != nil {
		t.Fatal(err)
	}
	wide := strings.Repeat("x", 200) + "…"
	pad := func(s string, width int) string { return s + strings.Repeat(" ", 201-width) }
	want := strings.Join([]string{
		"  id  " + pad("name", 4) + "  x",
		"----  " + strings.Repeat("-", 201) + "  -------",
		"   1  " + pad("日本", 4) + "  NULL",
		"1000  " + pad(`a\x1b[2J\nb`, 11) + "  x'dead'",
		"NULL  " + wide + "  -Inf",
		"   2  " + pad("�z", 2) + "  2.0",
		"",
	}, "\n")
	if diff := cmp.Diff(want, out.String()); diff != "" {
		t.Error(diff)
	}
	out.Reset()
	if err := ResultTable(&out, result(nil)); err != nil || out.Len() != 0 {
		t.Errorf("no columns: %q, %v", out.String(), err)
	}
}

func BenchmarkAppendResult(b *testing.B) {
	row := []value.Value{value.Integer(12345), value.Real(0.99), value.Text("For Those About To Rock"), value.Null()}
	rows := make([][]value.Value, 100)
	for i := range rows {
		rows[i] = row
	}
	r := result([]string{"id", "price", "name", "composer"}, rows...)
	answer := &datav1.Answer{Bookmark: "0123456789abcdef", Region: "eu-west-1"}
	var buf []byte
	b.ReportAllocs()
	for b.Loop() {
		buf = AppendResult(buf[:0], r, answer)
	}
	b.SetBytes(int64(len(buf)))
}
