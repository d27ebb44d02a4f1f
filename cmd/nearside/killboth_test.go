package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// TestSidecarAloneAfterAKill kills a primary and its region, and starts only the region again: it has what it had.
func TestSidecarAloneAfterAKill(t *testing.T) {
	dir := t.TempDir()
	port := freePort(t, 2)
	address := func(offset int) string { return fmt.Sprintf("127.0.0.1:%d", port+offset) }
	primaryArgs := []string{"primary", "--listen", address(0), "--dir", dir + "/primary"}
	regionArgs := []string{"sidecar", "--region", "eu-west-1", "--primary", "http://" + address(0), "--listen", address(1), "--dir", dir + "/eu"}
	primary := startRole(t, primaryArgs...)
	primary.line(t)
	token := tokenIn(t, filepath.Join(dir, "primary"))
	writer, reader := shell{t, "http://" + address(0), token}, shell{t, "http://" + address(1), token}
	region := startRole(t, regionArgs...)
	region.line(t)
	writer.must("db", "create", "demo")
	writer.must("sql", "CREATE TABLE t (id INTEGER PRIMARY KEY, a TEXT)")
	// Each round begins with what the region took over from the one before, and ends with both killed.
	for round := range 3 {
		answer := decode[sqlAnswer](t, writer.must("sql", "--json", fmt.Sprintf("INSERT INTO t (a) VALUES ('row %d')", round)))
		want := fmt.Sprintf("[[%d]]", round+1)
		within(t, func() bool { // the region may not know yet who calls, nor have begun the copy that the bookmark is of
			r := reader.run("sql", "--json", "--at-least", answer.Bookmark, "SELECT count(*) FROM t")
			if r.code != 0 {
				return false
			}
			got := decode[sqlAnswer](t, r.stdout)
			return got.Source == "REPLICA" && !got.ServedByPrimary
		})
		// The copy is complete now, in memory. What is written after it comes to the same log after it, so where the disk has this
		// text it has all that was before it.
		writer.must("sql", fmt.Sprintf("UPDATE t SET a = 'mark %d' WHERE id = 1", round))
		within(t, func() bool { return synced(t, dir+"/eu", fmt.Sprintf("mark %d", round)) })
		region.stop(t, syscall.SIGKILL)
		primary.stop(t, syscall.SIGKILL)

		region = startRole(t, regionArgs...)
		region.line(t)
		within(t, func() bool { return reader.run("sql", "SELECT 1 FROM t").code == 0 }) // listening is not ready yet
		answer = decode[sqlAnswer](t, reader.must("sql", "--json", "SELECT count(*) FROM t"))
		if answer.Region != "eu-west-1" || answer.ServedByPrimary {
			t.Errorf("round %d: answered by %+v", round, answer)
		}
		if got := reader.rows("demo", "SELECT count(*) FROM t"); got != want {
			t.Errorf("round %d: the region alone has %s rows, want %s", round, got, want)
		}
		if r := reader.run("sql", "INSERT INTO t (a) VALUES ('no')"); r.code != 1 {
			t.Errorf("round %d: written without a primary: %+v", round, r)
		}
		primary = startRole(t, primaryArgs...)
		primary.line(t)
	}
	within(t, func() bool { return writer.run("sql", "INSERT INTO t (a) VALUES ('last')").code == 0 })
	within(t, func() bool { return reader.rows("demo", "SELECT count(*) FROM t") == "[[4]]" })
}

// within waits a minute at most: what it waits for never comes where the region has lost its copy.
func within(t *testing.T, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for !ok() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatal("not within a minute")
		}
	}
}

// synced reports whether a text has come to the files of a folder, where it outlives the process.
func synced(t *testing.T, dir, text string) (found bool) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) || err == nil && e.IsDir() {
			return nil // deleted meanwhile
		}
		if err != nil {
			return err
		}
		content, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		found = found || bytes.Contains(content, []byte(text))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}
