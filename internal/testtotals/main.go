// Command testtotals reads the output of `go test -json` on standard input,
// prints a line for each package that has tests and the whole output of each test
// that failed, and ends with the totals, alone on a line: "N passed, N failed, N skipped".
//
// A test with subtests is counted by its subtests. A package that fails without
// a failing test (it does not compile, it panics, it times out) counts as one
// failure. With CI=true a test that skips with the words "missing tool" counts
// as failed: what CI lacks, .ci/run must install.
//
// It exits with 1 when anything failed or nothing ran.
package main

import (
	"bufio"
	"fmt"
	"os"
)

func main() {
	out := bufio.NewWriter(os.Stdout)
	totals := newTotals(out, os.Getenv("CI") == "true")
	err := totals.read(os.Stdin)
	if flushErr := out.Flush(); err == nil {
		err = flushErr
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "testtotals:", err)
		os.Exit(1)
	}
	if totals.failed > 0 || totals.passed == 0 {
		os.Exit(1)
	}
}
