// Package httpencoding compresses what is read over plain HTTP (pages, documents, REST, GraphQL) with gzip or zstd, and keeps true what
// HTTP says of it: a strong entity tag names the bytes that are sent, so each encoding has one of its own; what has been read in any
// of them is known again; and HEAD answers what GET would.
package httpencoding

import (
	"net/http"
	"slices"
	"strings"

	"github.com/klauspost/compress/gzhttp"
)

// MinBytes is the size of the smallest answer that is worth compressing: below it fits a packet.
const MinBytes = 1400

const (
	ifMatch     = "If-Match"
	ifNoneMatch = "If-None-Match"
)

// suffixes end the tags of answers that are compressed, inside the quotes.
var suffixes = []string{"-gzip", "-zstd"}

// Handler compresses the answers of next, which is asked GET for HEAD.
func Handler(next http.Handler) (http.Handler, error) {
	compress, err := gzhttp.NewWrapper(gzhttp.MinSize(MinBytes), gzhttp.SuffixETag(suffixes[0]))
	if err != nil {
		return nil, err
	}
	compressed := compress(next)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		conditional := r.Header[ifMatch] != nil || r.Header[ifNoneMatch] != nil
		if r.Method == http.MethodHead || conditional {
			r = r.WithContext(r.Context())
			if r.Method == http.MethodHead {
				r.Method = http.MethodGet // net/http leaves the body out
			}
		}
		if conditional {
			w = &tagWriter{ResponseWriter: w, known: tags(r.Header[ifNoneMatch])}
			r.Header = r.Header.Clone()
			for _, name := range []string{ifMatch, ifNoneMatch} {
				if lines := r.Header[name]; lines != nil {
					r.Header[name] = withPlain(lines)
				}
			}
		}
		compressed.ServeHTTP(w, r)
	}), nil
}

// tags splits lists of entity tags. Commas within tags do not matter: ours have none, and parts of others match nothing.
func tags(lines []string) []string {
	var out []string
	for _, line := range lines {
		for tag := range strings.SplitSeq(line, ",") {
			if tag = strings.TrimSpace(tag); tag != "" {
				out = append(out, tag)
			}
		}
	}
	return out
}

// plain returns a tag without the mark of its encoding, if it has one.
func plain(tag string) (string, bool) {
	for _, suffix := range suffixes {
		if text, ok := strings.CutSuffix(tag, suffix+`"`); ok {
			return text + `"`, true
		}
	}
	return tag, false
}

// withPlain adds to lists of tags those of the same things uncompressed.
func withPlain(lines []string) []string {
	out := slices.Clip(lines)
	for _, tag := range tags(lines) {
		if text, ok := plain(tag); ok {
			out = append(out, text)
		}
	}
	return []string{strings.Join(out, ", ")}
}

// tagWriter says of what its caller has that it has not changed by the tag that its caller has it by.
type tagWriter struct {
	http.ResponseWriter

	known []string
}

// WriteHeader implements http.ResponseWriter.
func (t *tagWriter) WriteHeader(status int) {
	if tag := t.Header().Get("Etag"); status == http.StatusNotModified && !slices.Contains(t.known, tag) {
		weak, bare := "", tag
		if strings.HasPrefix(tag, "W/") {
			weak, bare = tag[:2], tag[2:]
		}
		for _, known := range t.known {
			known = strings.TrimPrefix(known, "W/")
			if text, ok := plain(known); ok && text == bare {
				t.Header().Set("Etag", weak+known)
				break
			}
		}
	}
	t.ResponseWriter.WriteHeader(status)
}

// Flush implements http.Flusher.
func (t *tagWriter) Flush() { _ = http.NewResponseController(t.ResponseWriter).Flush() } // the next write fails too

// Unwrap lets http.ResponseController find the writer.
func (t *tagWriter) Unwrap() http.ResponseWriter { return t.ResponseWriter }
