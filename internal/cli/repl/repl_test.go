package repl

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// typist is an Editor who types what it is told to.
type typist struct {
	keys    []string // "^C" and "^D" are what they look like
	prompts []string
	history []string
}

func (t *typist) Prompt(prompt string) (string, error) {
	t.prompts = append(t.prompts, prompt)
	if len(t.keys) == 0 {
		return "", io.EOF
	}
	line := t.keys[0]
	t.keys = t.keys[1:]
	switch line {
	case "^C":
		return "", ErrInterrupted
	case "^D":
		return "", io.EOF
	}
	return line, nil
}

func (t *typist) Remember(line string) { t.history = append(t.history, line) }

// session types lines and returns what was run.
func session(t *testing.T, keys ...string) (ran []string, typed *typist, out string) {
	t.Helper()
	typed = &typist{keys: keys}
	var b bytes.Buffer
	l := &Loop{
		Editor: typed, Out: &b, Name: func() string { return "demo" },
		Statement: func(_ context.Context, text string) error {
			ran = append(ran, text)
			return nil
		},
		Command: func(_ context.Context, name string, args []string) error {
			ran = append(ran, "."+strings.Join(append([]string{name}, args...), " "))
			return nil
		},
	}
	if err := l.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	return ran, typed, b.String()
}

func TestLoop(t *testing.T) {
	for _, test := range []struct {
		name    string
		keys    []string
		ran     []string
		prompts string // n: new, c: goes on
		history []string
	}{
		{name: "one", keys: []string{"SELECT 1;"}, ran: []string{"SELECT 1"}, prompts: "nn", history: []string{"SELECT 1;"}},
		{name: "several lines", keys: []string{"SELECT", "  2", ";"}, ran: []string{"SELECT\n  2"}, prompts: "nccn", history: []string{"SELECT 2;"}},
		{name: "two on a line", keys: []string{"SELECT 1; SELECT 2; SELECT", "3;"}, ran: []string{"SELECT 1", "SELECT 2", "SELECT\n3"}, prompts: "ncn", history: []string{"SELECT 1;", "SELECT 2;", "SELECT 3;"}},
		{name: "string with semicolon", keys: []string{"SELECT ';", "';"}, ran: []string{"SELECT ';\n'"}, prompts: "ncn", history: []string{"SELECT ';", "';"}},
		{name: "comment", keys: []string{"-- nothing;", "/* a", "b */", "SELECT 1 -- x;", ";"}, ran: []string{"SELECT 1"}, prompts: "nncncn", history: []string{"SELECT 1;"}},
		{name: "trigger", keys: []string{"CREATE TRIGGER g AFTER INSERT ON t BEGIN", "DELETE FROM t;", "END;"}, ran: []string{"CREATE TRIGGER g AFTER INSERT ON t BEGIN\nDELETE FROM t;\nEND"}, prompts: "nccn", history: []string{"CREATE TRIGGER g AFTER INSERT ON t BEGIN DELETE FROM t; END;"}},
		{name: "Ctrl-C drops the line", keys: []string{"SELECT 1", "^C", "SELECT 2;"}, ran: []string{"SELECT 2"}, prompts: "ncnn", history: []string{"SELECT 2;"}},
		{name: "Ctrl-D leaves", keys: []string{"^D", "SELECT 1;"}, prompts: "n"},
		{name: "commands", keys: []string{".mode json", ".", "exit"}, ran: []string{".mode json", ".help"}, prompts: "nnn", history: []string{".mode json", ".", "exit"}},
		{name: "quit with semicolon", keys: []string{"quit;", "SELECT 1;"}, prompts: "n", history: []string{"quit;"}},
		{name: "dot in a statement", keys: []string{"SELECT", ".5;"}, ran: []string{"SELECT\n.5"}, prompts: "ncn", history: []string{"SELECT .5;"}},
		{name: "nothing", keys: []string{"", "  ", ";"}, prompts: "nnnn"},
	} {
		t.Run(test.name, func(t *testing.T) {
			ran, typed, _ := session(t, test.keys...)
			if diff := cmp.Diff(test.ran, ran); diff != "" {
				t.Errorf("ran: %s", diff)
			}
			if diff := cmp.Diff(test.history, typed.history); diff != "" {
				t.Errorf("history: %s", diff)
			}
			prompts := ""
			for _, p := range typed.prompts {
				switch p {
				case "demo> ":
					prompts += "n"
				case " ...> ":
					prompts += "c"
				default:
					t.Errorf("prompt %q", p)
				}
			}
			if prompts != test.prompts {
				t.Errorf("prompts %s, want %s", prompts, test.prompts)
			}
		})
	}
}

func TestLoopEnds(t *testing.T) {
	broken := errors.New("broken")
	l := &Loop{
		Editor: &typist{keys: []string{"SELECT 1;", "SELECT 2;"}}, Out: io.Discard, Name: func() string { return "d" },
		Statement: func(context.Context, string) error { return broken },
	}
	if err := l.Run(t.Context()); !errors.Is(err, broken) {
		t.Errorf("got %v", err)
	}
	long := strings.Repeat("x", maxPending)
	if ran, _, out := session(t, long, "SELECT 1;"); len(ran) != 1 || !strings.Contains(out, "longer than 1 MiB") {
		t.Errorf("a line too long: %d statements, %q", len(ran), out)
	}
}

func TestPlain(t *testing.T) {
	var out bytes.Buffer
	p := NewPlain(strings.NewReader("one\r\ntwo"), &out)
	for _, want := range []string{"one", "two"} {
		if got, err := p.Prompt("> "); got != want || err != nil {
			t.Errorf("%q, %v", got, err)
		}
	}
	if _, err := p.Prompt("> "); !errors.Is(err, io.EOF) || out.String() != "> > > " {
		t.Errorf("%v, %q", err, out.String())
	}
}

func TestComplete(t *testing.T) {
	names := Names{
		Tables:  []string{"users", "Orders", "order items"},
		Columns: map[string][]string{"users": {"id", "email"}, "Orders": {"id", "user_id", "group"}, "order items": {"sku"}},
	}
	commands := []string{"tables", "timer", "help"}
	for _, test := range []struct {
		line string // with | where the cursor is
		head string
		want []string
		tail string
	}{
		{line: "|"},
		{line: "sel|", want: []string{"select"}},
		{line: "SEL|", want: []string{"SELECT"}},
		{line: "Sel| 1", want: []string{"SELECT"}, tail: " 1"},
		{line: "select * from us|", head: "select * from ", want: []string{"users", "user_id", "using"}},
		{line: "select em| from users", head: "select ", want: []string{"email"}, tail: " from users"},
		{line: "select i| from orders", head: "select ", want: []string{"id", "if", "in", "index", "inner", "insert", "intersect", "into", "is"}, tail: " from orders"},
		{line: "select users.e|", head: "select users.", want: []string{"email"}},
		{line: "select orders.g|", head: "select orders.", want: []string{`"group"`}},
		{line: "select none.e|", head: "select "},
		{line: "FROM ORDER|", head: "FROM ", want: []string{`"order items"`, "Orders", "ORDER"}},
		{line: ".t|", want: []string{".tables", ".timer"}},
		{line: "日本 se|", head: "日本 ", want: []string{"select", "set"}},
	} {
		before, after, _ := strings.Cut(test.line, "|")
		head, words, tail := Complete(before+after, len([]rune(before)), names, commands)
		if tail != test.tail || (len(words) > 0 && head != test.head) {
			t.Errorf("%s: %q and %q", test.line, head, tail)
		}
		if diff := cmp.Diff(test.want, words); diff != "" && len(test.want)+len(words) > 0 {
			t.Errorf("%s: %s", test.line, diff)
		}
	}
}

func FuzzComplete(f *testing.F) {
	f.Add("select us from users", 9)
	f.Add(".t", -1)
	f.Add("日本\xff.", 3)
	names := Names{Tables: []string{"users"}, Columns: map[string][]string{"users": {"id"}}}
	f.Fuzz(func(t *testing.T, line string, pos int) {
		head, words, tail := Complete(line, pos, names, []string{"tables"})
		if len(head)+len(tail) > len(line) || !strings.HasSuffix(line, tail) || len(words) > maxCompletions {
			t.Errorf("%q at %d: %q, %q, %q", line, pos, head, words, tail)
		}
	})
}
