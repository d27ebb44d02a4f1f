package matrix_test

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"errors"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"

	"connectrpc.com/connect"
	"github.com/klauspost/compress/zstd"

	"github.com/nearside-dev/nearside/internal/meshtest"
	"github.com/nearside-dev/nearside/internal/meshtest/testcert"
)

// The kinds of calls.
const (
	unary        = "unary"
	serverStream = "server stream"
	clientStream = "client stream"
	bidiStream   = "bidi stream"
)

// door is a protocol.
type door struct {
	name    string
	get     bool // unary calls without side effects alone
	text    bool // bodies are base64
	options []connect.ClientOption
}

var doors = []door{
	{name: "Connect"},
	{name: "Connect GET", get: true, options: []connect.ClientOption{connect.WithHTTPGet()}},
	{name: "gRPC", options: []connect.ClientOption{connect.WithGRPC()}},
	{name: "gRPC-Web", options: []connect.ClientOption{connect.WithGRPCWeb()}},
	{name: "gRPC-Web text", text: true, options: []connect.ClientOption{connect.WithGRPCWeb()}},
}

const (
	http11 = "HTTP/1.1"
	h2c    = "h2c"
	h2TLS  = "h2 over TLS"
)

var versions = []string{http11, h2c, h2TLS}

// forbidden says why there is no such call.
func forbidden(d door, version, kind string) string {
	switch {
	case d.name == "gRPC" && version == http11:
		return "gRPC is defined over HTTP/2 alone"
	case d.get && kind != unary:
		return "Connect has GET for unary calls"
	case kind == bidiStream && version == http11:
		return "HTTP/1.1 has no messages in both directions at a time"
	default:
		return ""
	}
}

var codecs = map[string][]connect.ClientOption{"proto": nil, "JSON": {connect.WithProtoJSON()}}

// compressions are of requests and of answers.
var compressions = map[string][]connect.ClientOption{
	"identity": {connect.WithAcceptCompression("gzip", nil, nil)},
	"gzip":     {connect.WithSendGzip()},
	"zstd": {
		connect.WithAcceptCompression("gzip", nil, nil), connect.WithAcceptCompression("zstd", newDecoder, newEncoder),
		connect.WithSendCompression("zstd"),
	},
}

type decoder struct{ *zstd.Decoder }

// Close implements connect.Decompressor: it is used again.
func (d decoder) Close() error { return d.Reset(nil) }

func newDecoder() connect.Decompressor {
	d, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1))
	if err != nil {
		panic(err)
	}
	return decoder{d}
}

func newEncoder() connect.Compressor {
	e, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1))
	if err != nil {
		panic(err)
	}
	return e
}

// way is one way to call.
type way struct {
	door
	version, codec, compression string

	client   *http.Client
	recorder *recorder
	base     string
	options  []connect.ClientOption
}

func (w *way) name() string {
	return strings.Join([]string{w.door.name, w.version, w.codec, w.compression}, "/")
}

// ways returns all ways to call a region.
func ways(t *testing.T, m *meshtest.Mesh, region, certFile string) []*way {
	t.Helper()
	var out []*way
	token := m.AdminToken()
	for _, version := range versions {
		protocols, base := new(http.Protocols), m.URL(region)
		transport := &http.Transport{Protocols: protocols, DisableCompression: true}
		switch version {
		case http11:
			protocols.SetHTTP1(true)
		case h2c:
			protocols.SetUnencryptedHTTP2(true)
		case h2TLS:
			protocols.SetHTTP2(true)
			transport.TLSClientConfig, base = testcert.Trusting(t, certFile), strings.Replace(base, "http://", "https://", 1)
		}
		t.Cleanup(transport.CloseIdleConnections)
		for _, d := range doors {
			if forbidden(d, version, unary) != "" {
				continue
			}
			for codec, codecOptions := range codecs {
				for compression, compressionOptions := range compressions {
					w := &way{door: d, version: version, codec: codec, compression: compression, base: base}
					w.recorder = &recorder{next: transport, token: token}
					w.client = &http.Client{Transport: w.recorder}
					if d.text {
						w.client.Transport = asText{w.recorder}
					}
					for _, list := range [][]connect.ClientOption{d.options, codecOptions, compressionOptions} {
						w.options = append(w.options, list...)
					}
					out = append(out, w)
				}
			}
		}
	}
	return out
}

// recorder shows a credential, and knows the head of the last answer.
type recorder struct {
	next  http.RoundTripper
	token string

	mu    sync.Mutex
	last  http.Header
	major int
}

// RoundTrip implements http.RoundTripper.
func (r *recorder) RoundTrip(req *http.Request) (*http.Response, error) {
	req = req.Clone(req.Context())
	if r.token != "" {
		req.Header.Set("Authorization", "Bearer "+r.token)
	}
	res, err := r.next.RoundTrip(req)
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.last = nil; err == nil {
		r.last, r.major = res.Header.Clone(), res.ProtoMajor
	}
	return res, err
}

// encoding returns how the messages of the last answer were compressed.
func (r *recorder) encoding() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, name := range []string{"Grpc-Encoding", "Connect-Content-Encoding", "Content-Encoding"} {
		if v := r.last.Get(name); v != "" {
			return v
		}
	}
	return "identity"
}

// asText turns gRPC-Web into its form in base64, as clients in browsers speak it, by the letter of its specification.
type asText struct{ next http.RoundTripper }

// RoundTrip implements http.RoundTripper.
func (a asText) RoundTrip(req *http.Request) (*http.Response, error) {
	req = req.Clone(req.Context())
	kind := strings.Replace(req.Header.Get("Content-Type"), "application/grpc-web", "application/grpc-web-text", 1)
	req.Header.Set("Content-Type", kind)
	req.Header.Set("Accept", "application/grpc-web-text")
	req.Header.Set("X-Grpc-Web", "1")
	req.ContentLength = -1
	req.Body = &encoded{ReadCloser: req.Body}
	res, err := a.next.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	if kind, ok := strings.CutPrefix(res.Header.Get("Content-Type"), "application/grpc-web-text"); ok {
		res.Header.Set("Content-Type", "application/grpc-web"+kind)
		res.Body = &decoded{ReadCloser: res.Body, text: bufio.NewReader(res.Body)}
	} else if res.StatusCode == http.StatusOK {
		res.Body.Close()
		return nil, errors.New("the answer is not in base64: " + res.Header.Get("Content-Type"))
	}
	return res, nil
}

// encoded is a body in base64, each piece of it with padding.
type encoded struct {
	io.ReadCloser

	left bytes.Buffer
}

// Read implements io.Reader.
func (e *encoded) Read(p []byte) (int, error) {
	if e.left.Len() == 0 {
		var piece [1000]byte
		n, err := e.ReadCloser.Read(piece[:])
		if n == 0 {
			return 0, err
		}
		e.left.WriteString(base64.StdEncoding.EncodeToString(piece[:n]))
	}
	return e.left.Read(p)
}

// decoded is what a body in base64 stands for.
type decoded struct {
	io.ReadCloser

	text *bufio.Reader
	left bytes.Buffer
}

// Read implements io.Reader.
func (d *decoded) Read(p []byte) (int, error) {
	for d.left.Len() == 0 {
		var group [4]byte
		if _, err := io.ReadFull(d.text, group[:]); err != nil {
			return 0, err
		}
		b, err := base64.StdEncoding.DecodeString(string(group[:]))
		if err != nil {
			return 0, err
		}
		d.left.Write(b)
	}
	return d.left.Read(p)
}
