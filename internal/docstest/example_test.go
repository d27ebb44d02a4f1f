package docstest

import (
	"bufio"
	"fmt"
	"regexp"
	"strings"
	"testing"
)

// example is one block of commands and what they are to print.
type example struct {
	line   int // of the file, from 1: where the commands begin
	script string
	fails  bool   // a command in it is to fail
	tool   string // that it needs; it is left out where that is missing
	want   string
	check  bool // want is to be compared
}

const (
	markTest  = "<!-- test -->"
	markFails = "<!-- test fails -->"
	markWith  = "<!-- test with " // and the name of a tool that not everybody has
	fence     = "```"
	ellipsis  = "…"
)

// parse finds the examples of a guide.
func parse(text string) ([]example, error) {
	var (
		list    []example
		marked  *example        // its mark was seen, its block not yet
		open    string          // the language of the block we are in
		inside  bool            // we are in a block
		body    strings.Builder // of that block
		mayWant bool            // nothing but blank lines since an example's commands
	)
	scanner := bufio.NewScanner(strings.NewReader(text))
	for n := 1; scanner.Scan(); n++ {
		line := scanner.Text()
		switch trimmed := strings.TrimSpace(line); {
		case inside && trimmed == fence:
			inside = false
			switch {
			case marked != nil:
				marked.script = body.String()
				list = append(list, *marked)
				marked, mayWant = nil, true
				continue
			case open == "text" && mayWant:
				last := &list[len(list)-1]
				last.want, last.check = body.String(), true
			}
			mayWant = false
		case inside:
			body.WriteString(line + "\n")
		case strings.HasPrefix(trimmed, fence):
			open, inside = strings.TrimPrefix(trimmed, fence), true
			body.Reset()
			if marked == nil {
				continue
			}
			if open != "sh" {
				return nil, fmt.Errorf("line %d: an example is a block of sh, this is one of %q", n, open)
			}
			marked.line = n + 1
		case trimmed == markTest || trimmed == markFails:
			marked, mayWant = &example{fails: trimmed == markFails}, false
		case strings.HasPrefix(trimmed, markWith):
			marked, mayWant = &example{tool: strings.TrimSuffix(strings.TrimPrefix(trimmed, markWith), " -->")}, false
		case trimmed != "":
			if marked != nil {
				return nil, fmt.Errorf("line %d: text between the mark of an example and its block", n)
			}
			mayWant = false
		}
	}
	switch {
	case inside:
		return nil, fmt.Errorf("a block of %q does not end", open)
	case marked != nil:
		return nil, fmt.Errorf("the last mark has no block")
	}
	return list, scanner.Err()
}

// pattern returns the expression that an output must match to be what is wanted.
func pattern(want string) (*regexp.Regexp, error) {
	var b strings.Builder
	b.WriteString(`\A`)
	for line := range strings.SplitSeq(strings.TrimRight(want, "\n"), "\n") {
		line = tight(line)
		if line == ellipsis {
			b.WriteString(`(?:[^\n]*\n)*`)
			continue
		}
		parts := strings.Split(line, ellipsis)
		for i, part := range parts {
			parts[i] = regexp.QuoteMeta(part)
		}
		b.WriteString(strings.Join(parts, `[^\n]*`) + `\n`)
	}
	b.WriteString(`\n*\z`)
	return regexp.Compile(b.String())
}

// matches reports whether an output is what is wanted.
func matches(want, got string) (bool, error) {
	re, err := pattern(want)
	if err != nil {
		return false, err
	}
	var b strings.Builder
	for line := range strings.SplitSeq(strings.TrimSuffix(got, "\n"), "\n") {
		b.WriteString(tight(line) + "\n")
	}
	return re.MatchString(b.String()), nil
}

var jsonSpace = regexp.MustCompile(`([:,]) `)

// tight returns a line without what is not compared: the carriage return of an HTTP header, spaces at the end, and in JSON
// those between tokens. That it also shortens texts within the JSON does not matter: both sides go through it.
func tight(line string) string {
	line = strings.TrimRight(line, " \r")
	if strings.HasPrefix(line, "{") {
		return jsonSpace.ReplaceAllString(line, "$1")
	}
	return line
}

func TestParse(t *testing.T) {
	const guide = "# Guide\n" +
		"```sh\nnot marked\n```\n" +
		"<!-- test -->\n\n```sh\none\ntwo\n```\n\n```text\nout\n```\n" +
		"<!-- test fails -->\n```sh\nthree\n```\nwords\n```text\nnot compared\n```\n" +
		"<!-- test with curl -->\n```sh\nfour\n```\n```json\n{}\n```\n```text\nnot compared\n```\n"
	got, err := parse(guide)
	if err != nil {
		t.Fatal(err)
	}
	want := []example{
		{line: 8, script: "one\ntwo\n", want: "out\n", check: true},
		{line: 17, script: "three\n", fails: true},
		{line: 25, script: "four\n", tool: "curl"},
	}
	if len(got) != len(want) {
		t.Fatalf("%d examples, want %d: %+v", len(got), len(want), got)
	}
	for i := range want {
		if got[i] != want[i] {
			t.Errorf("example %d is %+v, want %+v", i, got[i], want[i])
		}
	}
	for name, broken := range map[string]string{
		"no block":         "<!-- test -->\n",
		"block not closed": "```sh\n",
		"other language":   "<!-- test -->\n```go\n```\n",
		"words between":    "<!-- test -->\nwords\n```sh\n```\n",
	} {
		if list, err := parse(broken); err == nil {
			t.Errorf("%s: parsed as %+v", name, list)
		}
	}
}

func TestMatches(t *testing.T) {
	for _, tc := range []struct {
		want, got string
		ok        bool
	}{
		{"a\n", "a\n", true},
		{"a\n", "a", true},
		{"a\n", "a  \n\n", true},
		{"a\n", "a\r\n", true},
		{"a\n", "b\n", false},
		{"a\n", "a\nb\n", false},
		{"a.c\n", "abc\n", false},
		{"id …, ok\n", "id 17, ok\n", true},
		{"id …, ok\n", "id 1\n7, ok\n", false},
		{"a\n…\nz\n", "a\nz\n", true},
		{"a\n…\nz\n", "a\nb\nc\nz\n", true},
		{"a\n…\nz\n", "a\nb\n", false},
		{"…\n", "", true},
		{`{"a":1,"b":…}`, `{"a": 1, "b": 2}`, true},
		{`{"a": 1}`, `{"a":2}`, false},
	} {
		ok, err := matches(tc.want, tc.got)
		if err != nil {
			t.Fatal(err)
		}
		if ok != tc.ok {
			t.Errorf("%q against %q: %v, want %v", tc.got, tc.want, ok, tc.ok)
		}
	}
}
