package main

import (
	"iter"
	"maps"
	"slices"
	"strings"
)

// test returns the named test, which makes its parents known as such. Parents
// start before their subtests, so a prefix without a test is just part of a
// name with a slash in it.
func (r *packageRun) test(name string) *test {
	found := r.tests[name]
	if found == nil {
		found = new(test)
		r.tests[name] = found
		for prefix := range prefixes(name) {
			if parent := r.tests[prefix]; parent != nil {
				parent.parent = true
			}
		}
	}
	return found
}

// prefixes yields the names that tests above the named one can have.
func prefixes(name string) iter.Seq[string] {
	return func(yield func(string) bool) {
		for i := range len(name) {
			if name[i] == '/' && !yield(name[:i]) {
				return
			}
		}
	}
}

// failures are the tests that failed by themselves: a parent is among them only
// when none of its subtests is. A test that never ended failed, unless one of
// its subtests tells more.
func (r *packageRun) failures(strict bool) map[string]bool {
	failures := make(map[string]bool)
	blamed := make(map[string]bool) // parents whose subtests failed
	// Subtests sort behind their parents, so backwards they come first.
	for _, name := range slices.Backward(slices.Sorted(maps.Keys(r.tests))) {
		test := r.tests[name]
		missing := strict && test.action == "skip" && strings.Contains(test.output.text.String(), missingTool)
		failed := test.action == "fail" || test.action == "" || missing
		if failed && !blamed[name] {
			failures[name] = true
		}
		if failed {
			for prefix := range prefixes(name) {
				blamed[prefix] = true
			}
		}
	}
	return failures
}

// toShow are the failed tests and their parents, in the order of their names:
// a parent may have printed what explains its subtest's failure.
func (r *packageRun) toShow(failures map[string]bool) []string {
	show := make(map[string]bool)
	for name := range failures {
		show[name] = true
		for prefix := range prefixes(name) {
			if r.tests[prefix] != nil {
				show[prefix] = true
			}
		}
	}
	return slices.Sorted(maps.Keys(show))
}
