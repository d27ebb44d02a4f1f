package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
)

const (
	maxLineBytes   = 16 << 20  // one event; the longest line a test may print
	maxOutputBytes = 256 << 10 // kept for each test; what a failure shows
)

// missingTool are the words by which a test says that it skips because the
// machine lacks a program, and not because the test does not apply.
const missingTool = "missing tool"

// event is what `go test -json` prints, as described by `go doc test2json`.
type event struct {
	Action      string  `json:"Action"`
	Package     string  `json:"Package"`
	ImportPath  string  `json:"ImportPath"` // of build events
	Test        string  `json:"Test"`
	Elapsed     float64 `json:"Elapsed"` // seconds
	Output      string  `json:"Output"`
	FailedBuild string  `json:"FailedBuild"` // import path of the package whose build failed
}

// totals adds up the events of one or more runs of go test, package by package.
type totals struct {
	out    io.Writer
	strict bool // a skip for a missing tool is a failure

	passed, failed, skipped int

	packages map[string]*packageRun
	builds   map[string]*output
}

// packageRun is what is known of a package that has not ended yet.
type packageRun struct {
	output output
	tests  map[string]*test
}

type test struct {
	output output
	action string // pass, fail, skip; empty while it runs
	parent bool   // it has subtests
}

// output keeps the first maxOutputBytes written to it.
type output struct {
	text strings.Builder
	cut  bool
}

func (o *output) add(s string) {
	if o.cut {
		return
	}
	if o.text.Len()+len(s) > maxOutputBytes {
		o.cut = true
		s = "... output cut here\n"
	}
	o.text.WriteString(s)
}

func newTotals(out io.Writer, strict bool) *totals {
	return &totals{out: out, strict: strict, packages: make(map[string]*packageRun), builds: make(map[string]*output)}
}

// read takes all events of in, reports each package as it ends and the totals
// at the end of input. Lines that are no event are printed as they are.
func (t *totals) read(in io.Reader) error {
	lines := bufio.NewScanner(in)
	lines.Buffer(make([]byte, 64<<10), maxLineBytes)
	for lines.Scan() {
		var e event
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			if _, err := fmt.Fprintln(t.out, lines.Text()); err != nil {
				return err
			}
			continue
		}
		if err := t.take(e); err != nil {
			return err
		}
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("read test events: %w", err)
	}
	// A run that was killed leaves packages without an end.
	for name := range t.packages {
		if err := t.endPackage(event{Action: "fail", Package: name}); err != nil {
			return err
		}
	}
	_, err := fmt.Fprintf(t.out, "%d passed, %d failed, %d skipped\n", t.passed, t.failed, t.skipped)
	return err
}

func (t *totals) take(e event) error {
	switch {
	case e.Action == "build-output":
		t.build(e.ImportPath).add(e.Output)
		return nil
	case e.Package == "":
		return nil
	case e.Test == "":
		return t.takePackage(e)
	}
	run := t.run(e.Package)
	current := run.test(e.Test)
	switch e.Action {
	case "output":
		current.output.add(e.Output)
	case "pass", "fail", "skip":
		current.action = e.Action
	}
	return nil
}

func (t *totals) takePackage(e event) error {
	switch e.Action {
	case "output":
		t.run(e.Package).output.add(e.Output)
	case "pass", "fail", "skip":
		return t.endPackage(e)
	}
	return nil
}

// endPackage counts and reports a package and forgets it, so that a second run
// of the same package starts anew.
func (t *totals) endPackage(e event) error {
	run := t.run(e.Package)
	delete(t.packages, e.Package)
	failures := run.failures(t.strict)
	for name, test := range run.tests {
		switch {
		case failures[name]:
			t.failed++
		case test.parent || test.action == "": // counted by its subtests, or cut off by a failure
		case test.action == "skip":
			t.skipped++
		default:
			t.passed++
		}
	}
	if e.Action == "fail" && len(failures) == 0 {
		t.failed++
	}
	status := "ok"
	switch {
	case e.Action == "fail" || len(failures) > 0:
		status = "FAIL"
	case e.Action == "skip": // it has no tests
		return nil
	}
	report := []error{t.printf("%-5s %s %.1fs\n", status, e.Package, e.Elapsed)}
	if status == "FAIL" {
		if build := t.builds[e.FailedBuild]; build != nil {
			report = append(report, t.printf("%s", build.text.String()))
		}
		for _, name := range run.toShow(failures) {
			report = append(report, t.printf("%s", run.tests[name].output.text.String()))
		}
		report = append(report, t.printf("%s", run.output.text.String()))
	}
	return errors.Join(report...)
}

func (t *totals) printf(format string, args ...any) error {
	_, err := fmt.Fprintf(t.out, format, args...)
	return err
}

func (t *totals) run(name string) *packageRun {
	run := t.packages[name]
	if run == nil {
		run = &packageRun{tests: make(map[string]*test)}
		t.packages[name] = run
	}
	return run
}

func (t *totals) build(name string) *output {
	build := t.builds[name]
	if build == nil {
		build = new(output)
		t.builds[name] = build
	}
	return build
}
