package mesh

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
)

func TestHeadsOfAnswers(t *testing.T) {
	for _, test := range []struct {
		in    string
		want  answerHead // but for its size
		lines string
		part  bool
		bad   bool
	}{
		{in: "HTTP/1.1 200 OK\r\nContent-Type: a/b\r\nContent-Length: 3\r\nDate: x\r\n\r\nabc", want: answerHead{status: 200, length: 3, keep: true}, lines: "Content-Type: a/b\r\n"},
		{in: "HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\nConnection: close, X-Hop\r\nx-hop: 1\r\nX-Other: 2\r\n\r\n", want: answerHead{status: 200, length: -1, chunked: true}, lines: "X-Other: 2\r\n"},
		{in: "HTTP/1.1 204 \r\nKeep-Alive: 1\r\n\r\n", want: answerHead{status: 204, keep: true}},
		{in: "HTTP/1.1 204 \r\naccess-control-Allow-Origin: *\r\n\r\n", want: answerHead{status: 204, keep: true}},
		{in: "HTTP/1.0 200 OK\r\n\r\n", want: answerHead{status: 200, length: -1}},
		{in: "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n", part: true},
		{in: "", part: true},
		{in: "HTTP/2.0 200 OK\r\n\r\n", bad: true},
		{in: "HTTP/1.1 2000 OK\r\n\r\n", bad: true},
		{in: "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\n", bad: true},
		{in: "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n", bad: true},
		{in: "HTTP/1.1 200 OK\r\nContent-Length: -3\r\n\r\n", bad: true},
		{in: "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", bad: true},
		{in: "HTTP/1.1 200 OK\r\nA b: 3\r\n\r\n", bad: true},
		{in: "HTTP/1.1 200 OK\r\nA: 3\nB: 4\r\n\r\n", bad: true},
		{in: "HTTP/1.1 200 OK\r\n folded: 3\r\n\r\n", bad: true},
		{in: "HTTP/1.1 200 OK\nA: 3\n\n", bad: true},
		{in: "HTTP/1.1 200 OK\nA: 3\n\nbody\r\n\r\n", bad: true},
		{in: "HTTP/1.1 200 OK\r\nALT-SVC: x\r\nStrict-Transport-Security: x\r\nA: 3\r\n\r\n", want: answerHead{status: 200, length: -1}, lines: "A: 3\r\n"},
		{in: strings.Repeat("x", maxAnswerHeader+1), bad: true},
		{in: "HTTP/1.1 200 OK\r\nA: " + strings.Repeat("x", maxAnswerHeader) + "\r\n\r\n", bad: true},
	} {
		var h answerHead
		part, err := h.parse([]byte(test.in))
		if part != test.part || (err != nil) != test.bad {
			t.Errorf("%.60q: part %v, error %v", test.in, part, err)
			continue
		}
		if part || err != nil {
			continue
		}
		lines := string(h.lines)
		h.size, h.lines = 0, nil
		if lines != test.lines || h.status != test.want.status || h.length != test.want.length || h.chunked != test.want.chunked ||
			h.keep != test.want.keep {
			t.Errorf("%q: got %+v and %q", test.in, h, lines)
		}
	}
}

// unchunk takes a body apart that comes in pieces of a size.
func unchunk(in []byte, size int) (out []byte, rest []byte, err error) {
	var c chunks
	var have []byte
	for {
		data, used, err := c.next(have)
		out = append(out, data...)
		have = have[used:]
		switch {
		case err != nil:
			return out, nil, err
		case c.done:
			return out, append(have, in...), nil
		case len(data) > 0:
		case len(in) == 0:
			return out, nil, io.ErrUnexpectedEOF
		default:
			n := min(size, len(in))
			have, in = append(slices.Clip(have), in[:n]...), in[n:]
		}
	}
}

func TestChunks(t *testing.T) {
	const in = "5\r\nhello\r\n1;name=value\r\n \r\nA\r\nworld\r\n-01\r\n0\r\nTrailer: x\r\n\r\nnext"
	for size := range len(in) {
		out, rest, err := unchunk([]byte(in), size+1)
		if string(out) != "hello world\r\n-01" || string(rest) != "next" || err != nil {
			t.Errorf("in pieces of %d bytes: %q, %q, %v", size+1, out, rest, err)
		}
	}
	for _, bad := range []string{"x\r\n", "-1\r\n", "+1\r\n", "\r\n", "1\r\nab", "1\r\naxx", "ffffffffffffffffff\r\n", strings.Repeat("1", 300)} {
		if _, _, err := unchunk([]byte(bad), 64); !errors.Is(err, errAnswer) {
			t.Errorf("%.20q: %v", bad, err)
		}
	}
}

func FuzzAnswer(f *testing.F) {
	f.Add([]byte("HTTP/1.1 200 OK\r\nContent-Length: 3\r\nA: b\r\n\r\nabc"), 3)
	f.Add([]byte("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: a\r\nA: b\r\n\r\n3\r\nabc\r\n0\r\n\r\n"), 5)
	f.Fuzz(func(t *testing.T, in []byte, size int) {
		var h answerHead
		part, err := h.parse(in)
		if part || err != nil {
			return
		}
		if h.size > len(in) || bytes.Count(h.lines, []byte("\n")) != bytes.Count(h.lines, []byte("\r\n")) {
			t.Fatalf("head %+v", h)
		}
		// What is taken here is taken by net/http, and means the same to it.
		res, err := http.ReadResponse(bufio.NewReader(bytes.NewReader(in)), &http.Request{Method: http.MethodPost})
		if err != nil {
			return // net/http is stricter about some values
		}
		defer res.Body.Close()
		if res.StatusCode != h.status {
			t.Fatalf("status %d, net/http has %d", h.status, res.StatusCode)
		}
		if !h.chunked {
			if h.status >= 200 && res.ContentLength != h.length {
				t.Fatalf("length %d, net/http has %d", h.length, res.ContentLength)
			}
			return
		}
		want, wantErr := io.ReadAll(res.Body)
		got, _, err := unchunk(in[h.size:], max(1, size%64))
		if err == nil && wantErr == nil && !bytes.Equal(got, want) {
			t.Fatalf("body %q, net/http has %q", got, want)
		}
	})
}
