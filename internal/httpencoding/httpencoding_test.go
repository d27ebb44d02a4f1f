package httpencoding_test

import (
	"bytes"
	"compress/gzip"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/nearside-dev/nearside/internal/httpencoding"
)

// reply is the head of an answer.
type reply struct {
	status int
	text   string
	header http.Header
	length int64
}

// TestHandler reads a document in each encoding, whole, as HEAD, and again with the tag that it had.
func TestHandler(t *testing.T) {
	long := strings.Repeat("long ", 1000)
	h, err := httpencoding.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		text := long
		if r.URL.Path == "/short" {
			text = "short"
		}
		w.Header().Set("Content-Type", "text/plain")
		w.Header().Set("Etag", `"7"`)
		http.ServeContent(w, r, "", time.Time{}, strings.NewReader(text))
	}))
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewServer(h)
	defer s.Close()
	c := &http.Client{Transport: &http.Transport{DisableCompression: true}}
	defer c.CloseIdleConnections()
	ask := func(verb, path string, headers ...string) (reply, []byte) {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), verb, s.URL+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		for i := 0; i < len(headers); i += 2 {
			req.Header.Set(headers[i], headers[i+1])
		}
		res, err := c.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		body, err := io.ReadAll(res.Body)
		if err != nil {
			t.Fatal(err)
		}
		return reply{res.StatusCode, res.Status, res.Header, res.ContentLength}, body
	}
	for _, tc := range []struct{ path, accept, encoding, tag, text string }{
		{"/", "", "", `"7"`, long},
		{"/", "identity", "", `"7"`, long},
		{"/", "br", "", `"7"`, long},
		{"/", "gzip;q=0, zstd;q=0", "", `"7"`, long},
		{"/", "gzip", "gzip", `"7-gzip"`, long},
		{"/", "gzip, deflate, br, zstd", "zstd", `"7-zstd"`, long},
		{"/", "zstd;q=0.1, gzip", "gzip", `"7-gzip"`, long},
		{"/short", "gzip", "", `"7"`, "short"},
	} {
		t.Run(tc.path+" "+tc.accept, func(t *testing.T) {
			res, body := ask("GET", tc.path, "Accept-Encoding", tc.accept)
			if res.header.Get("Content-Encoding") != tc.encoding || res.header.Get("Etag") != tc.tag || res.header.Get("Vary") != "Accept-Encoding" {
				t.Errorf("headers %v", res.header)
			}
			if n := res.header.Get("Content-Length"); n != "" && n != strconv.Itoa(len(body)) {
				t.Errorf("%d bytes, said to be %s", len(body), n)
			}
			if got := unpack(t, tc.encoding, body); got != tc.text {
				t.Errorf("%d bytes", len(got))
			}
			head, body := ask("HEAD", tc.path, "Accept-Encoding", tc.accept)
			if len(body) > 0 || head.status != http.StatusOK {
				t.Errorf("HEAD: %s, %d bytes", head.text, len(body))
			}
			for _, name := range []string{"Content-Encoding", "Etag", "Vary", "Content-Type"} {
				if head.header.Get(name) != res.header.Get(name) {
					t.Errorf("HEAD: %s %q, GET has %q", name, head.header.Get(name), res.header.Get(name))
				}
			}
			if n := head.header.Get("Content-Length"); n != "" && n != strconv.FormatInt(res.length, 10) {
				t.Errorf("HEAD: length %s, GET has %d", n, res.length)
			}
			for list, status := range map[string]int{
				tc.tag: 304, `"x", ` + tc.tag: 304, "*": 304, "W/" + tc.tag: 304, `"8"`: 200, `"7-br"`: 200, "7": 200,
			} {
				res, body := ask("GET", tc.path, "Accept-Encoding", tc.accept, "If-None-Match", list)
				if res.status != status || status == 304 && (len(body) > 0 || res.header.Get("Content-Encoding") != "") {
					t.Errorf("If-None-Match %s: %s, %d bytes", list, res.text, len(body))
				}
				if want := strings.TrimPrefix(tc.tag, "W/"); status == 304 && strings.HasSuffix(list, want) && strings.TrimPrefix(res.header.Get("Etag"), "W/") != want {
					t.Errorf("If-None-Match %s: Etag %s", list, res.header.Get("Etag"))
				}
			}
			for tag, status := range map[string]int{tc.tag: 200, "*": 200, "W/" + tc.tag: 412, `"8"`: 412} {
				if res, _ := ask("GET", tc.path, "Accept-Encoding", tc.accept, "If-Match", tag); res.status != status {
					t.Errorf("If-Match %s: %s", tag, res.text)
				}
			}
		})
	}
	if res, body := ask("GET", "/", "Accept-Encoding", "gzip", "Range", "bytes=5-8"); res.status != http.StatusPartialContent || string(body) != "long" || res.header.Get("Content-Encoding") != "" {
		t.Errorf("a part: %s %q %v", res.text, body, res.header)
	}
}

func unpack(t *testing.T, encoding string, body []byte) string {
	t.Helper()
	var r io.Reader = bytes.NewReader(body)
	switch encoding {
	case "gzip":
		g, err := gzip.NewReader(r)
		if err != nil {
			t.Fatal(err)
		}
		r = g
	case "zstd":
		d, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1))
		if err != nil {
			t.Fatal(err)
		}
		defer d.Close()
		r = d
	}
	text, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
