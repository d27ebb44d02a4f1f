package demo

import (
	"compress/gzip"
	"io"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"
)

func newPage(t *testing.T, regions ...string) http.Handler {
	t.Helper()
	h, err := New(Options{
		Next:    http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusTeapot) }),
		Regions: func() []string { return regions },
	})
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// answer is what a handler answered.
type answer struct {
	status int
	header http.Header
	body   string
}

func get(h http.Handler, method, path string, header ...string) answer {
	r := httptest.NewRequest(method, path, http.NoBody)
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return answer{w.Code, w.Header(), w.Body.String()}
}

var reference = regexp.MustCompile(`(?:src|href)="([^"]+)"`)

// TestPage loads the page and all that it refers to, which is its own.
func TestPage(t *testing.T) {
	h := newPage(t, "http://127.0.0.1:8081")
	res := get(h, http.MethodGet, "/demo/")
	if res.status != http.StatusOK || res.header.Get("Content-Type") != "text/html; charset=utf-8" {
		t.Fatalf("page: %d %v", res.status, res.header)
	}
	if got := res.header.Get("Cache-Control"); got != "no-cache" {
		t.Errorf("page: Cache-Control %q", got)
	}
	again := get(h, http.MethodGet, "/demo/", "If-None-Match", res.header.Get("Etag"))
	if again.status != http.StatusNotModified {
		t.Errorf("page with its tag: %d", again.status)
	}
	references := reference.FindAllStringSubmatch(res.body, -1)
	if len(references) < 3 {
		t.Fatalf("the page refers to %v", references)
	}
	for _, m := range references {
		if !strings.HasPrefix(m[1], "/demo/assets/") {
			t.Errorf("the page refers to %s", m[1])
			continue
		}
		res := get(h, http.MethodGet, m[1])
		if res.status != http.StatusOK || !strings.Contains(res.header.Get("Cache-Control"), "immutable") ||
			res.header.Get("X-Content-Type-Options") != "nosniff" || res.header.Get("Content-Type") == "" {
			t.Errorf("%s: %d %v", m[1], res.status, res.header)
		}
		packed := get(h, http.MethodGet, m[1], "Accept-Encoding", "gzip")
		if packed.header.Get("Content-Encoding") == "gzip" {
			r, err := gzip.NewReader(strings.NewReader(packed.body))
			if err != nil {
				t.Fatal(err)
			}
			unpacked, err := io.ReadAll(r)
			if err != nil || string(unpacked) != res.body {
				t.Errorf("%s is another one when it is compressed: %v", m[1], err)
			}
		}
	}
	if strings.Contains(res.body, "<style") || regexp.MustCompile(`<script[^>]*>[^<]`).MatchString(res.body) {
		t.Error("the page has scripts or styles in it, which its policy forbids")
	}
}

func TestPolicy(t *testing.T) {
	h := newPage(t, "http://127.0.0.1:8081/", "https://eu.example.org:443/base?q", "ftp://a", "http://a;script-src *", "http://*", "::", "http://b,c")
	got := get(h, http.MethodGet, "/demo/").header.Get("Content-Security-Policy")
	for _, want := range []string{"default-src 'none';", "script-src 'self';", "frame-ancestors 'none';"} {
		if !strings.Contains(got, want) {
			t.Errorf("policy %q lacks %q", got, want)
		}
	}
	_, connect, _ := strings.Cut(got, "connect-src ")
	if want := "'self' http://127.0.0.1:8081 https://eu.example.org:443"; connect != want {
		t.Errorf("connect-src %s, want %s", connect, want)
	}
	many := make([]string, 10*maxRegions)
	for i := range many {
		many[i] = "http://region"
	}
	if n := strings.Count(policy(many), "http://"); n != maxRegions {
		t.Errorf("the policy names %d regions", n)
	}
}

func TestWhatIsNotThePage(t *testing.T) {
	h := newPage(t)
	for _, tc := range []struct {
		method, path string
		want         int
	}{
		{http.MethodGet, "/demo", http.StatusMovedPermanently},
		{http.MethodHead, "/demo/", http.StatusOK},
		{http.MethodPost, "/demo/", http.StatusMethodNotAllowed},
		{http.MethodGet, "/demo/nothing", http.StatusNotFound},
		{http.MethodGet, "/demo/assets/", http.StatusNotFound},
		{http.MethodGet, "/demo/../demo.go", http.StatusNotFound},
		{http.MethodGet, "/demos", http.StatusTeapot},
		{http.MethodPost, "/nearside.data.v1.DataService/Get", http.StatusTeapot},
	} {
		if got := get(h, tc.method, tc.path).status; got != tc.want {
			t.Errorf("%s %s: %d, want %d", tc.method, tc.path, got, tc.want)
		}
	}
}

// TestTheGatewaysAddress in a browser leads to the page; programs are not sent there.
func TestTheGatewaysAddress(t *testing.T) {
	h := newPage(t)
	const browsers = "text/html,application/xhtml+xml,*/*;q=0.8"
	for _, verb := range []string{http.MethodGet, http.MethodHead} {
		if res := get(h, verb, "/", "Accept", browsers); res.status != http.StatusFound || res.header.Get("Location") != Path {
			t.Errorf("%s: %d %v", verb, res.status, res.header)
		}
	}
	for _, res := range []answer{
		get(h, http.MethodGet, "/"), get(h, http.MethodGet, "/", "Accept", "*/*"), get(h, http.MethodPost, "/", "Accept", browsers),
		get(h, http.MethodGet, "/v1/users", "Accept", browsers),
	} {
		if res.status != http.StatusTeapot {
			t.Errorf("sent away: %d %v", res.status, res.header)
		}
	}
}
