package graphql

import (
	"bytes"
	"embed"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/zeebo/xxh3"

	"github.com/nearside-dev/nearside/internal/server"
)

//go:embed page
var page embed.FS

// pagePolicy lets the page have what this origin serves and nothing else.
const pagePolicy = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; " +
	"base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

// pageFiles are the page's, by their paths.
var pageFiles = func() map[string][2]string {
	files := map[string][2]string{
		PathPage: {"index.html", "text/html; charset=utf-8"}, PathPage + "/page.css": {"page.css", "text/css; charset=utf-8"},
		PathPage + "/icon.svg": {"icon.svg", "image/svg+xml"},
	}
	for _, name := range []string{"page.js", "answer.js", "complete.js", "history.js", "schema.js"} {
		files[PathPage+"/"+name] = [2]string{name, "text/javascript; charset=utf-8"}
	}
	return files
}()

func servesPage(path string) bool { return path == PathPage || strings.HasPrefix(path, PathPage+"/") }

func servePage(w http.ResponseWriter, r *http.Request) {
	file, ok := pageFiles[strings.TrimSuffix(r.URL.Path, "/")]
	if !ok {
		http.NotFound(w, r)
		return
	}
	text, err := page.ReadFile("page/" + file[0])
	if err != nil {
		http.NotFound(w, r)
		return
	}
	server.ReadOnly(func(w http.ResponseWriter, r *http.Request) { serveFile(w, r, file[1], text) }).ServeHTTP(w, r)
}

func serveFile(w http.ResponseWriter, r *http.Request, kind string, text []byte) {
	h := w.Header()
	h.Set("Content-Type", kind)
	h.Set("Content-Security-Policy", pagePolicy)
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Cache-Control", "no-cache")
	h.Set("Etag", `"`+strconv.FormatUint(xxh3.Hash(text), 36)+`"`)
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(text))
}
