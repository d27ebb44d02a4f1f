package meshtest_test

import (
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"connectrpc.com/connect"

	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/internal/meshtest"
)

// TestDeleteRemovesTheBytes deletes a database and looks for its values in all files of the mesh.
func TestDeleteRemovesTheBytes(t *testing.T) {
	const secret, neighbour = "a-value-of-the-deleted-one", "a-value-of-its-neighbour"
	m := meshtest.Start(t, meshtest.Options{})
	for database, text := range map[string]string{"gone": secret, "stays": neighbour} {
		m.Create(database)
		m.Exec("", database, "CREATE TABLE t (id INTEGER PRIMARY KEY, a TEXT)")
		m.Exec("", database, "CREATE INDEX t_a ON t (a)")
		for i := range 20 {
			m.Exec("", database, fmt.Sprintf("INSERT INTO t (a) VALUES ('%s %d')", text, i))
		}
		m.Exec("", database, fmt.Sprintf("UPDATE t SET a = '%s changed' WHERE id %% 3 = 0", text))
		m.WaitSync(database)
	}
	for _, region := range []string{east, west} { // which writes out what it has in memory
		m.StopSidecar(region)
		m.StartSidecar(region)
	}
	m.WaitReady()
	places := func(text string) string { return strings.Join(holders(t, m.Dir(), text), " ") }
	for _, part := range []string{"primary/log", "primary/db", east, west} {
		if all := places(secret); !strings.Contains(all, part) {
			t.Fatalf("the search finds nothing in %s, but in %s", part, all)
		}
	}
	_, err := m.Client(west).DeleteDatabase(context.Background(), connect.NewRequest(&datav1.DeleteDatabaseRequest{Name: "gone"}))
	if err != nil {
		t.Fatal(err)
	}
	m.Eventually("the values have left all files", func(context.Context) error {
		if left := places(secret); left != "" {
			return fmt.Errorf("they are in %s", left)
		}
		return nil
	})
	if n := m.CompareAll("stays"); n != 20 {
		t.Errorf("the neighbour has %d rows", n)
	}
}

// holders returns the files below a folder that hold a text.
func holders(t *testing.T, dir, text string) (paths []string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if os.IsNotExist(err) || err == nil && e.IsDir() {
			return nil // deleted meanwhile
		}
		if err != nil {
			return err
		}
		content, err := os.ReadFile(path)
		if err == nil && bytes.Contains(content, []byte(text)) {
			paths = append(paths, strings.TrimPrefix(path, dir))
		}
		if os.IsNotExist(err) {
			return nil
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return paths
}
