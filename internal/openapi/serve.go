package openapi

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

// The paths that Mount mounts.
const (
	PathDocument = "/openapi.json"
	PathPage     = "/docs"
)

//go:embed page
var page embed.FS

// The page takes what this origin serves and nothing else.
const policy = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; " +
	"base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

var contentTypes = map[string]string{
	"index.html": "text/html; charset=utf-8", "docs.js": "text/javascript; charset=utf-8", "docs.css": "text/css; charset=utf-8",
	"icon.svg": "image/svg+xml",
}

// Serves reports whether a path is one of those that Mount mounts.
func Serves(path string) bool {
	return path == PathDocument || path == PathPage || strings.HasPrefix(path, PathPage+"/")
}

// Mount serves the document that there is for a request, and a page to read it by that asks nobody else for anything.
func Mount(mux *http.ServeMux, document func(*http.Request) []byte) {
	mux.Handle(PathDocument, server.ReadOnly(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Add("Vary", "Authorization")
		serve(w, r, "application/json", document(r))
	}))
	mux.Handle(PathPage, server.ReadOnly(func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, PathPage+"/", http.StatusMovedPermanently)
	}))
	mux.Handle(PathPage+"/{file...}", server.ReadOnly(func(w http.ResponseWriter, r *http.Request) {
		name := r.PathValue("file")
		if name == "" {
			name = "index.html"
		}
		kind, ok := contentTypes[name]
		if !ok {
			http.NotFound(w, r)
			return
		}
		text, err := page.ReadFile("page/" + name)
		if err != nil {
			http.NotFound(w, r)
			return
		}
		serve(w, r, kind, text)
	}))
}

func serve(w http.ResponseWriter, r *http.Request, kind string, content []byte) {
	h := w.Header()
	h.Set("Content-Type", kind)
	h.Set("Content-Security-Policy", policy)
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Cache-Control", "no-cache")
	h.Set("Etag", `"`+strconv.FormatUint(xxh3.Hash(content), 36)+`"`)
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(content))
}
