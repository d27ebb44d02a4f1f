package main

import (
	"io/fs"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestExport(t *testing.T) {
	dir := t.TempDir()
	want := map[string]string{ // a declaration of each file
		"buf/validate/validate.proto":     "message FieldRules ",
		"google/api/annotations.proto":    "HttpRule http = 72295728;",
		"google/api/field_behavior.proto": "enum FieldBehavior ",
		"google/api/http.proto":           "message HttpRule ",
		"google/rpc/code.proto":           "enum Code ",
		"google/rpc/error_details.proto":  "message RetryInfo ",
		"google/rpc/status.proto":         "message Status ",
	}
	var first map[string]string
	for range 2 { // what is there is replaced by the same
		if err := export(dir, roots()); err != nil {
			t.Fatal(err)
		}
		got := readTree(t, os.DirFS(dir))
		if first == nil {
			first = got
		}
		if diff := cmp.Diff(first, got); diff != "" {
			t.Errorf("a second export differs (-first +second):\n%s", diff)
		}
	}
	for path, declaration := range want {
		if !strings.Contains(first[path], declaration) {
			t.Errorf("%s does not declare %q", path, declaration)
		}
		delete(first, path)
	}
	for path := range first {
		t.Errorf("unexpected file %s", path)
	}
}

func readTree(t *testing.T, tree fs.FS) map[string]string {
	t.Helper()
	files := make(map[string]string)
	err := fs.WalkDir(tree, ".", func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		text, err := fs.ReadFile(tree, path)
		files[path] = string(text)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}
