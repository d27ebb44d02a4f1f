package callers_test

import (
	"context"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"connectrpc.com/connect"

	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/internal/meshtest"
)

// TestNamesAreNoPaths: no name that a caller chooses leads to a file, an admin's neither, and no path to another method.
func TestNamesAreNoPaths(t *testing.T) {
	w := start(t, meshtest.Options{Regions: []string{west}})
	ctx := context.Background()
	outside := filepath.Join(w.Dir(), "outside")
	if err := os.WriteFile(outside, []byte("untouched"), 0o600); err != nil {
		t.Fatal(err)
	}
	data := w.data(west, w.AdminToken())
	for _, name := range []string{
		"..", "../outside", "../../outside", "..\\outside", "/etc/passwd", "a/b", "a\x00b", "./shop", "shop/", "%2e%2e%2foutside", "file:x?mode=memory",
		"shop.sqlite", ":memory:", "shop?x", "~", strings.Repeat("a", 300), "ＳＨＯＰ", " shop", "shop ", "",
	} {
		_, err := data.CreateDatabase(ctx, connect.NewRequest(&datav1.CreateDatabaseRequest{Name: name}))
		expect(t, "create "+name, err, "FIELD_INVALID")
		_, err = data.Get(ctx, connect.NewRequest(&datav1.GetRequest{Database: name, Table: "items", Key: &datav1.Key{Values: []*datav1.Value{integerOf(1)}}}))
		if got := reason(err); got != "FIELD_INVALID" && got != "DATABASE_NOT_FOUND" {
			t.Errorf("get from %q: %v", name, err)
		}
	}
	for _, sql := range []string{
		"ATTACH '" + outside + "' AS o", "VACUUM INTO '" + outside + "2'", "SELECT readfile('" + outside + "')", "SELECT writefile('" + outside + "', 'x')",
		"SELECT load_extension('" + outside + "')", "CREATE VIRTUAL TABLE v USING csv(filename='" + outside + "')", "SELECT * FROM pragma_database_list",
		"SELECT * FROM _auth.accounts", "SELECT * FROM main.sqlite_schema, _mesh.accounts",
	} {
		res, err := data.Execute(ctx, connect.NewRequest(&datav1.ExecuteRequest{Database: shop, Statement: &datav1.Statement{Sql: sql}}))
		if err == nil && strings.Contains(res.Msg.String(), w.Dir()) {
			t.Errorf("%s: %v", sql, res.Msg)
		}
		if err == nil && !strings.Contains(sql, "pragma_database_list") {
			t.Errorf("%s was done: %v", sql, res.Msg)
		}
	}
	for _, path := range []string{
		"/healthz/../nearside.data.v1.DataService/ListDatabases", "/nearside.auth.v1.AuthService/Authenticate/../../nearside.data.v1.DataService/ListDatabases",
		"/%6eearside.data.v1.DataService/ListDatabases", "//nearside.data.v1.DataService/ListDatabases", "/nearside.data.v1.DataService//ListDatabases",
		"/demo/../../../../etc/passwd", "/demo/..%2f..%2fetc%2fpasswd", "/docs/%2e%2e/%2e%2e/admin.json", "/.well-known/../admin.json",
	} {
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, w.URL(west), strings.NewReader("{}"))
		if err != nil {
			t.Fatal(err)
		}
		req.URL.Opaque = path // as it is
		req.Header.Set("Content-Type", "application/json")
		res, err := w.bare.Transport.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		if res.StatusCode == http.StatusOK {
			t.Errorf("%s is answered", path)
		}
	}
	text, err := os.ReadFile(outside)
	if err != nil || string(text) != "untouched" {
		t.Errorf("the file outside: %q, %v", text, err)
	}
	err = filepath.WalkDir(w.Dir(), func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.Name() != "outside" && (strings.Contains(d.Name(), "outside") || strings.Contains(d.Name(), "%")) {
			t.Errorf("there is %s", path)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}
