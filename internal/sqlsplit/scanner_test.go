package sqlsplit

import (
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"
)

// scanAll returns all statements of in.
func scanAll(t *testing.T, in io.Reader, options Options) []Statement {
	t.Helper()
	scanner := NewScanner(in, options)
	var all []Statement
	for scanner.Scan() {
		all = append(all, scanner.Statement())
	}
	if err := scanner.Err(); err != nil {
		t.Fatalf("after %d statements: %v", len(all), err)
	}
	if scanner.Scan() {
		t.Error("Scan returned true after it had returned false")
	}
	return all
}

func texts(statements []Statement) []string {
	var all []string
	for _, statement := range statements {
		all = append(all, statement.Text)
	}
	return all
}

func TestScanTexts(t *testing.T) {
	tests := []struct {
		name string
		in   string
		want []string
	}{
		{"nothing", "", nil},
		{"space", " \t\r\n\f", nil},
		{"semicolons", ";;\n ; ", nil},
		{"comments", "-- a; b\n/* c; d */ ; -- e", nil},
		{"open block comment", "SELECT 1; /* SELECT 2;", []string{"SELECT 1"}},
		{"open block comment in a statement", "SELECT 1 /* + 2;", []string{"SELECT 1"}},
		{"block comment of one star", "/*/ SELECT 1; */ SELECT 2;", []string{"SELECT 2"}},
		{"block comment of stars", "/***/SELECT 1;/* **/SELECT 2", []string{"SELECT 1", "SELECT 2"}},
		{"block comment without end of line", "-- x /*\nSELECT 1;", []string{"SELECT 1"}},
		{"plain", "SELECT 1; SELECT 2;\nSELECT 3", []string{"SELECT 1", "SELECT 2", "SELECT 3"}},
		{"trimmed", "\n /* a */ SELECT 1 /* b */ -- c\n ; -- d", []string{"SELECT 1"}},
		{"comments inside stay", "SELECT /* ; */ 1 -- ;\n + 2;", []string{"SELECT /* ; */ 1 -- ;\n + 2"}},
		{"strings", `SELECT 'a;''b', "c;""d", [e;f'], ` + "`g;``h`;SELECT 2", []string{`SELECT 'a;''b', "c;""d", [e;f'], ` + "`g;``h`", "SELECT 2"}},
		{"comment marks in strings", `SELECT '--', "/*"; SELECT [--];`, []string{`SELECT '--', "/*"`, "SELECT [--]"}},
		{"backslash is nothing", `SELECT '\'; SELECT 2;`, []string{`SELECT '\'`, "SELECT 2"}},
		{"open string", "SELECT 1; SELECT 'a; b\n", []string{"SELECT 1", "SELECT 'a; b\n"}},
		{"operators", "SELECT 1-1, 4/2, 1- -1, 2/ *x;-;/", []string{"SELECT 1-1, 4/2, 1- -1, 2/ *x", "-", "/"}},
		{"byte order mark", "\xEF\xBB\xBFSELECT 1;", []string{"SELECT 1"}},
		{"half a byte order mark", "\xEF\xBB", []string{"\xEF\xBB"}},
		{"windows lines", "SELECT 1;\r\nSELECT\r\n2;\r\n", []string{"SELECT 1", "SELECT\r\n2"}},
		{"not UTF-8", "SELECT '\xff;\xfe';\xff;", []string{"SELECT '\xff;\xfe'", "\xff"}},
		{"NUL", "SELECT 1\x00;SELECT 2", []string{"SELECT 1\x00", "SELECT 2"}},
		{
			"trigger",
			"CREATE TRIGGER a AFTER INSERT ON b BEGIN SELECT 1; SELECT 2; END; SELECT 3;",
			[]string{"CREATE TRIGGER a AFTER INSERT ON b BEGIN SELECT 1; SELECT 2; END", "SELECT 3"},
		},
		{
			"trigger with CASE",
			"create temporary trigger a after insert on b begin select case when 1 then 2 end; update c set d = case e when 1 then 2 end; end; select 3",
			[]string{"create temporary trigger a after insert on b begin select case when 1 then 2 end; update c set d = case e when 1 then 2 end; end", "select 3"},
		},
		{
			"trigger with comments around its end",
			"CREATE /* x */ TEMP -- y\n TRIGGER a BEGIN SELECT 1; -- END;\n /* END; */ END /* z */; SELECT 2;",
			[]string{"CREATE /* x */ TEMP -- y\n TRIGGER a BEGIN SELECT 1; -- END;\n /* END; */ END", "SELECT 2"},
		},
		{
			"trigger with an END that is not its own",
			"CREATE TRIGGER a BEGIN SELECT 1; END x; SELECT 'END'; ENDING; END;SELECT 2;",
			[]string{"CREATE TRIGGER a BEGIN SELECT 1; END x; SELECT 'END'; ENDING; END", "SELECT 2"},
		},
		{
			"explained trigger",
			"EXPLAIN QUERY PLAN CREATE TRIGGER a BEGIN SELECT 1; END; SELECT 2;",
			[]string{"EXPLAIN QUERY PLAN CREATE TRIGGER a BEGIN SELECT 1; END", "SELECT 2"},
		},
		{"explained select", "EXPLAIN SELECT 1; SELECT 2;", []string{"EXPLAIN SELECT 1", "SELECT 2"}},
		{"open trigger", "CREATE TRIGGER a BEGIN SELECT 1; ", []string{"CREATE TRIGGER a BEGIN SELECT 1;"}},
		{"no trigger", "CREATE TABLE trigger(a); SELECT 1; END;", []string{"CREATE TABLE trigger(a)", "SELECT 1", "END"}},
		{"names like keywords", "CREATE TRIGGERS a; CREATE TEMPORARYX TRIGGER b; SELECT 1;", []string{"CREATE TRIGGERS a", "CREATE TEMPORARYX TRIGGER b", "SELECT 1"}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			whole := scanAll(t, strings.NewReader(test.in), Options{})
			if diff := cmp.Diff(test.want, texts(whole)); diff != "" {
				t.Errorf("texts (-want +got):\n%s", diff)
			}
			for _, statement := range whole {
				if got := test.in[statement.Offset:][:len(statement.Text)]; got != statement.Text {
					t.Errorf("at offset %d stands %q, not %q", statement.Offset, got, statement.Text)
				}
			}
			bytewise := scanAll(t, iotest.OneByteReader(strings.NewReader(test.in)), Options{})
			if diff := cmp.Diff(whole, bytewise); diff != "" {
				t.Errorf("read byte by byte (-whole +bytewise):\n%s", diff)
			}
		})
	}
}

func TestScanPositions(t *testing.T) {
	const in = "\xEF\xBB\xBF-- one\n\nSELECT 1; SELECT\r\n'a\nb' -- c\n;\n\n  SELECT 3  \n"
	want := []Statement{
		{Text: "SELECT 1", Line: 3, EndLine: 3, Offset: 11, EndOffset: 20},
		{Text: "SELECT\r\n'a\nb'", Line: 3, EndLine: 5, Offset: 21, EndOffset: 41},
		{Text: "SELECT 3", Line: 8, EndLine: 8, Offset: 45, EndOffset: int64(len(in))},
	}
	if diff := cmp.Diff(want, scanAll(t, strings.NewReader(in), Options{})); diff != "" {
		t.Errorf("statements (-want +got):\n%s", diff)
	}
}

// A stream hands out one chunk a Read and fails the test when it is read before
// the test has asked for more.
type stream struct {
	t      *testing.T
	chunks []string
}

func (s *stream) Read(p []byte) (int, error) {
	if len(s.chunks) == 0 {
		s.t.Error("read on although a statement was there")
		return 0, io.EOF
	}
	n := copy(p, s.chunks[0])
	s.chunks = s.chunks[1:]
	return n, nil
}

func TestScanDoesNotWaitForMore(t *testing.T) {
	in := &stream{t: t}
	scanner := NewScanner(in, Options{})
	for _, test := range []struct {
		chunks []string
		want   []string
	}{
		{[]string{"S"}, nil},
		{[]string{"ELECT 1", ";"}, []string{"SELECT 1"}},
		{[]string{"-- hello\n", "SELECT 2;"}, []string{"SELECT 2"}},
		{[]string{"SELECT 3; SELECT 4;\n"}, []string{"SELECT 3", "SELECT 4"}},
		{[]string{"CREATE TRIGGER a BEGIN SELECT 1;", " EN", "D", ";"}, []string{"CREATE TRIGGER a BEGIN SELECT 1; END"}},
	} {
		in.chunks = append(in.chunks, test.chunks...)
		for _, want := range test.want {
			if !scanner.Scan() {
				t.Fatalf("no statement, want %q: %v", want, scanner.Err())
			}
			if got := scanner.Statement().Text; got != want {
				t.Errorf("got %q, want %q", got, want)
			}
		}
	}
}

func TestScanLimit(t *testing.T) {
	tests := []struct {
		name string
		in   string
		want []string
		line int // of the statement that is too long; 0 if none is
	}{
		{"at the limit", "SELECT 123;", []string{"SELECT 123"}, 0},
		{"at the limit and the end", "SELECT 123", []string{"SELECT 123"}, 0},
		{"beyond it", "SELECT 1;\n\nSELECT 1234;", []string{"SELECT 1"}, 3},
		{"beyond it at the end", "SELECT 1234", nil, 1},
		{"one long word", "SELECTSELECT", nil, 1},
		{"an open string", "SELECT 1; '" + strings.Repeat("x;\n", 1<<20), []string{"SELECT 1"}, 1},
		{"space and comments around do not count", strings.Repeat(" ", 1<<20) + "/*" + strings.Repeat("*", 1<<20) + "*/SELECT 1;", []string{"SELECT 1"}, 0},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			for _, in := range []io.Reader{strings.NewReader(test.in), iotest.HalfReader(strings.NewReader(test.in)), iotest.OneByteReader(strings.NewReader(test.in))} {
				scanner := NewScanner(in, Options{MaxStatementBytes: 10})
				var got []string
				for scanner.Scan() {
					got = append(got, scanner.Statement().Text)
				}
				if diff := cmp.Diff(test.want, got); diff != "" {
					t.Errorf("texts (-want +got):\n%s", diff)
				}
				var tooLong *TooLongError
				if errors.As(scanner.Err(), &tooLong) != (test.line > 0) {
					t.Fatalf("error %v", scanner.Err())
				}
				if tooLong != nil && (tooLong.Line != test.line || tooLong.LimitBytes != 10) {
					t.Errorf("error %v, want line %d", tooLong, test.line)
				}
			}
		})
	}
}

// A gauge notes how large the buffer of the scanner that reads it has become.
type gauge struct {
	in      io.Reader
	scanner *Scanner
	max     int
}

func (g *gauge) Read(p []byte) (int, error) {
	g.max = max(g.max, cap(g.scanner.buffer))
	return g.in.Read(p)
}

func TestScanMemoryIsBounded(t *testing.T) {
	const limit = 1 << 20
	for name, in := range map[string]string{
		"an open string":   "'" + strings.Repeat("x", 4*limit),
		"small statements": strings.Repeat("SELECT 1; -- x\n", limit),
		"one comment":      "/*" + strings.Repeat("x", 4*limit),
		"space":            strings.Repeat(" ", 4*limit),
	} {
		t.Run(name, func(t *testing.T) {
			watched := &gauge{in: strings.NewReader(in)}
			watched.scanner = NewScanner(watched, Options{MaxStatementBytes: limit})
			for watched.scanner.Scan() {
			}
			want := firstBufferBytes
			if in[0] == '\'' {
				want = limit + minReadBytes
			}
			if watched.max > want || watched.max == 0 {
				t.Errorf("the buffer grew to %d bytes, want at most %d", watched.max, want)
			}
		})
	}
}

func TestScanReadError(t *testing.T) {
	broken := errors.New("broken pipe")
	scanner := NewScanner(io.MultiReader(strings.NewReader("SELECT 1;\nDELETE FROM a "), iotest.ErrReader(broken)), Options{})
	if !scanner.Scan() || scanner.Statement().Text != "SELECT 1" {
		t.Fatalf("got %q, %v", scanner.Statement().Text, scanner.Err())
	}
	if scanner.Scan() {
		t.Errorf("half a statement was handed out: %q", scanner.Statement().Text)
	}
	if err := scanner.Err(); !errors.Is(err, broken) || !strings.Contains(err.Error(), "line 2") {
		t.Errorf("error %v", err)
	}
}

// idle is a reader that never gets anywhere.
type idle struct{}

func (idle) Read([]byte) (int, error) { return 0, nil }

func TestScanNoProgress(t *testing.T) {
	scanner := NewScanner(idle{}, Options{})
	if scanner.Scan() || !errors.Is(scanner.Err(), io.ErrNoProgress) {
		t.Errorf("error %v", scanner.Err())
	}
}
