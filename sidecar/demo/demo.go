// Package demo serves the live page at /demo/ of a gateway: users and orders, in two regions at a time. The page is public and
// holds no data; what it shows it asks for with the credential of whoever logs in there.
//
// dist is what `make demo` builds from web/demo; it is committed, so that the program builds without Node.
package demo

import (
	"bytes"
	"embed"
	"fmt"
	"io/fs"
	"mime"
	"net/http"
	"net/url"
	"path"
	"strconv"
	"strings"
	"time"

	"github.com/zeebo/xxh3"

	"github.com/nearside-dev/nearside/internal/httpencoding"
	"github.com/nearside-dev/nearside/internal/server"
)

const (
	// Path is where the page is. Browsers that ask for / are sent there.
	Path = "/demo/"
	// maxRegions bounds the policy's header.
	maxRegions = 256

	index = "index.html"
	// assets are the files whose names change with their content.
	assets = "assets/"
)

//go:embed dist
var dist embed.FS

// Options configures a handler. All fields are required.
type Options struct {
	Next http.Handler // answers whatever is not the page's
	// Regions are the base URLs of the mesh's gateways: what the page may talk to besides the one that it came from. They may be
	// others with each call.
	Regions func() []string
}

// New returns a handler that serves the page and passes on all else. It answers at once what Next does (server.Expresser).
func New(o Options) (http.Handler, error) {
	files, err := load()
	if err != nil {
		return nil, fmt.Errorf("demo page: %w", err)
	}
	h := &handler{next: o.Next, files: files, regions: o.Regions}
	if h.compressed, err = httpencoding.Handler(http.HandlerFunc(h.serve)); err != nil {
		return nil, fmt.Errorf("demo page: %w", err)
	}
	if paths := server.ExpresserOf(o.Next); paths != nil {
		return expresser{h, paths}, nil
	}
	return h, nil
}

type expresser struct {
	*handler
	server.Expresser
}

type handler struct {
	next       http.Handler
	compressed http.Handler
	files      map[string]file // by path below Path
	regions    func() []string
}

type file struct {
	content []byte
	kind    string
	tag     string
}

func load() (map[string]file, error) {
	files := make(map[string]file)
	err := fs.WalkDir(dist, "dist", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		content, err := dist.ReadFile(name)
		if err != nil {
			return err
		}
		kind := mime.TypeByExtension(path.Ext(name))
		if path.Ext(name) == ".js" {
			kind = "text/javascript; charset=utf-8" // whatever the machine's own table says
		}
		files[strings.TrimPrefix(name, "dist/")] = file{
			content: content, kind: kind, tag: `"` + strconv.FormatUint(xxh3.Hash(content), 36) + `"`,
		}
		return nil
	})
	if err == nil && files[index].content == nil {
		err = fmt.Errorf("%s is missing: run make demo", index)
	}
	return files, err
}

// ServeHTTP implements http.Handler.
func (h *handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch {
	case strings.HasPrefix(r.URL.Path, Path):
		h.compressed.ServeHTTP(w, r)
	case r.URL.Path == strings.TrimSuffix(Path, "/"):
		http.Redirect(w, r, Path, http.StatusMovedPermanently)
	case r.URL.Path == "/" && wantsPage(r):
		w.Header().Set("Cache-Control", "no-store")
		http.Redirect(w, r, Path, http.StatusFound)
	default:
		h.next.ServeHTTP(w, r)
	}
}

// wantsPage reports whether a request is a browser's that was given the gateway's address and no more.
func wantsPage(r *http.Request) bool {
	return (r.Method == http.MethodGet || r.Method == http.MethodHead) && strings.Contains(r.Header.Get("Accept"), "text/html")
}

func (h *handler) serve(w http.ResponseWriter, r *http.Request) {
	name := strings.TrimPrefix(r.URL.Path, Path)
	if name == "" {
		name = index
	}
	header := w.Header()
	header.Set("X-Content-Type-Options", "nosniff")
	header.Set("Referrer-Policy", "no-referrer")
	f, ok := h.files[name]
	if !ok {
		http.NotFound(w, r)
		return
	}
	server.ReadOnly(func(w http.ResponseWriter, r *http.Request) { h.serveFile(w, r, name, f) }).ServeHTTP(w, r)
}

func (h *handler) serveFile(w http.ResponseWriter, r *http.Request, name string, f file) {
	header := w.Header()
	header.Set("Content-Type", f.kind)
	header.Set("Etag", f.tag)
	header.Set("Cross-Origin-Opener-Policy", "same-origin")
	header.Set("Cross-Origin-Resource-Policy", "same-origin")
	if strings.HasPrefix(name, assets) {
		header.Set("Cache-Control", "public, max-age=31536000, immutable")
	} else {
		header.Set("Cache-Control", "no-cache")
	}
	header.Set("Content-Security-Policy", policy(h.regions()))
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(f.content))
}

// policy has the page take what this origin serves, talk to the mesh's gateways, and nothing else.
func policy(regions []string) string {
	var b strings.Builder
	b.WriteString("default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; base-uri 'none'; form-action 'none'; " +
		"frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'; connect-src 'self'")
	for i, region := range regions {
		if i == maxRegions {
			break
		}
		if origin := originOf(region); origin != "" {
			b.WriteString(" " + origin)
		}
	}
	return b.String()
}

// originOf returns the origin of a base URL, or "" if it has none that can stand in a policy.
func originOf(base string) string {
	u, err := url.Parse(base)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" ||
		strings.ContainsFunc(u.Host, func(r rune) bool { return r <= ' ' || r > '~' || strings.ContainsRune(`;,'"*`, r) }) {
		return ""
	}
	return u.Scheme + "://" + u.Host
}
