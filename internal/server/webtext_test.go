package server

import (
	"bytes"
	"encoding/base64"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"testing/iotest"

	"connectrpc.com/connect"
)

func readText(text string, whole bool) (string, error) {
	var r io.Reader = strings.NewReader(text)
	if !whole {
		r = iotest.OneByteReader(r)
	}
	out, err := io.ReadAll(&textReader{ReadCloser: io.NopCloser(r)})
	return string(out), err
}

func TestTextReader(t *testing.T) {
	long := strings.Repeat("long ", 5000)
	enc := base64.StdEncoding.EncodeToString
	for _, tc := range []struct {
		text, want string
		bad        bool
	}{
		{"", "", false},
		{"AAAA", "\x00\x00\x00", false},
		{"AA==", "\x00", false},
		{"AA==AAA=AAAA", "\x00\x00\x00\x00\x00\x00", false}, // each piece has padding of its own
		{enc([]byte(long)), long, false},
		{enc([]byte(long[:1000])) + enc([]byte(long[:1001])), long[:1000] + long[:1001], false},
		{"A", "", true},
		{"AAA", "", true},
		{"AA=A", "", true},
		{"====", "", true},
		{"AAAA\r\n", "\x00\x00\x00", true},
		{"AA\nA", "", true},
		{"AA-_", "", true},
		{"AAAA=", "\x00\x00\x00", true},
	} {
		for _, whole := range []bool{true, false} {
			got, err := readText(tc.text, whole)
			if (err != nil) != tc.bad || err == nil && got != tc.want {
				t.Errorf("%.40q: %.40q, %v", tc.text, got, err)
			}
			if tc.bad && connect.CodeOf(err) != connect.CodeInvalidArgument {
				t.Errorf("%.40q: %v", tc.text, err)
			}
		}
	}
}

func FuzzTextReader(f *testing.F) {
	f.Add("AAAA", true)
	f.Add("AA==AAA=AAAA", false)
	f.Add("AA=A", false)
	f.Fuzz(func(t *testing.T, text string, whole bool) {
		got, err := readText(text, whole)
		other, otherErr := readText(text, !whole)
		if (err == nil) != (otherErr == nil) || err == nil && got != other {
			t.Errorf("%q: %q, %v, and in other pieces %q, %v", text, got, err, other, otherErr)
		}
		if err == nil && strings.IndexByte(text, '=') < 0 {
			if want, err := base64.StdEncoding.DecodeString(text); err != nil || string(want) != got {
				t.Errorf("%q: %q, want %q", text, got, want)
			}
		}
		// What is written can be read.
		rec := httptest.NewRecorder()
		w := &textWriter{ResponseWriter: rec, control: http.NewResponseController(rec)}
		w.Header().Set("Content-Type", "application/grpc-web+proto")
		for piece := range bytes.SplitSeq([]byte(text), []byte("=")) {
			if _, err := w.Write(piece); err != nil {
				t.Fatal(err)
			}
			if whole {
				w.Flush()
			}
		}
		if err := w.finish(); err != nil {
			t.Fatal(err)
		}
		if back, err := readText(rec.Body.String(), whole); err != nil || back != strings.ReplaceAll(text, "=", "") {
			t.Errorf("%q was written as %q: %q, %v", text, rec.Body, back, err)
		}
	})
}

// reply is the head of an answer.
type reply struct {
	status int
	header http.Header
}

// TestWebText has what stands behind the gate see gRPC-Web in bytes alone, and its caller base64 alone.
func TestWebText(t *testing.T) {
	_, url := start(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			_ = connect.NewErrorWriter().Write(w, r, err)
			return
		}
		if string(body) == "plain" {
			http.Error(w, "no gRPC-Web", http.StatusTeapot)
			return
		}
		w.Header().Set("Content-Type", r.Header.Get("Content-Type"))
		w.Header().Set("Content-Length", strconv.Itoa(len("saw ")+len(body)))
		_, _ = w.Write(append([]byte("saw "), body...))
	}), Config{Name: "test"})
	post := func(kind, body string) (reply, string) {
		t.Helper()
		res, err := unaryClient(t).Post(url+"/p.S/M", kind, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		text, err := io.ReadAll(res.Body)
		if err != nil {
			t.Fatal(err)
		}
		return reply{res.StatusCode, res.Header}, string(text)
	}
	for _, kind := range []string{"application/grpc-web-text", "application/grpc-web-text+proto", "application/grpc-web-text; charset=utf-8"} {
		res, text := post(kind, base64.StdEncoding.EncodeToString([]byte("bytes")))
		if got, err := base64.StdEncoding.DecodeString(text); err != nil || string(got) != "saw bytes" || res.header.Get("Content-Type") != kind {
			t.Errorf("%s: %s %q %v", kind, res.header.Get("Content-Type"), text, err)
		}
	}
	if res, text := post("application/grpc-web-text", base64.StdEncoding.EncodeToString([]byte("plain"))); res.status != http.StatusTeapot || text != "no gRPC-Web\n" {
		t.Errorf("what is no gRPC-Web: %d %q", res.status, text)
	}
	if res, text := post("application/grpc-web-textual", "bytes"); text != "saw bytes" {
		t.Errorf("another type: %d %q", res.status, text)
	}
	res, text := post("application/grpc-web-text", "no base64!")
	if res.status != http.StatusOK || res.header.Get("Grpc-Status") != "3" {
		t.Errorf("no base64: %d %v %q", res.status, res.header, text)
	}
}

func TestIsCall(t *testing.T) {
	for path, want := range map[string]bool{
		"/a.v1.S/M": true, "/a.S/M": true, "/v1/users": false, "/graphql": false, "/.well-known/jwks.json": false, "/a.S/M/x": false, "/a.S/": false, "/": false,
		"": false, "/a.js": false,
	} {
		if IsCall(path) != want {
			t.Errorf("%q: %v", path, !want)
		}
	}
}
