package mesh

import (
	"bytes"
	"io"
	"net/http"
	"strings"

	"connectrpc.com/vanguard"

	"github.com/nearside-dev/nearside/internal/identity"
	"github.com/nearside-dev/nearside/internal/server"
	"github.com/nearside-dev/nearside/internal/servicedesc"
)

// maxTurnedBytes bounds a message that is turned from one codec into another.
const maxTurnedBytes = 72 << 20

// speaksPlainGRPC reports whether a call is one of gRPC with protobuf, which each service of gRPC takes.
func speaksPlainGRPC(req *http.Request) bool {
	kind, _, _ := strings.Cut(req.Header.Get("Content-Type"), ";")
	kind = strings.TrimSpace(kind)
	return kind == "application/grpc" || kind == "application/grpc+proto"
}

// turnable are the compressions that messages may have which are turned.
var turnable = func() map[string]bool {
	names := map[string]bool{"": true, "identity": true}
	for _, c := range server.Compressions() {
		names[c.Name] = true
	}
	return names
}()

// compressionOf returns how the messages of a request are compressed, "" where they are not.
func compressionOf(req *http.Request) string {
	kind := req.Header.Get("Content-Type")
	switch {
	case req.Method == http.MethodGet:
		return req.URL.Query().Get("compression")
	case strings.HasPrefix(kind, "application/grpc"):
		return req.Header.Get("Grpc-Encoding")
	case strings.HasPrefix(kind, "application/connect+"):
		return req.Header.Get("Connect-Content-Encoding")
	default:
		return req.Header.Get("Content-Encoding")
	}
}

// turnedBody reads on behind an empty message: the transcoder says there that the stream has ended, and goes on when it is asked
// again.
type turnedBody struct{ io.ReadCloser }

// Read implements io.Reader.
func (b turnedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if n > 0 && err == io.EOF {
		err = nil
	}
	return n, err
}

// turnedAnswer is the answer to a unary call before it is turned. A service may leave a message uncompressed although it says that it
// compresses, a short one mostly. The transcoder takes every message for compressed then, so it is not told.
type turnedAnswer struct {
	http.ResponseWriter

	status int // to be written; 0: there is none, or it was
}

// WriteHeader implements http.ResponseWriter. What the message is has to be known first.
func (a *turnedAnswer) WriteHeader(status int) { a.status = status }

// begin writes the head, if there is one.
func (a *turnedAnswer) begin(compressed bool) {
	if a.status == 0 {
		return
	}
	if !compressed {
		a.Header().Del("Grpc-Encoding")
	}
	a.ResponseWriter.WriteHeader(a.status)
	a.status = 0
}

// Write implements http.ResponseWriter.
func (a *turnedAnswer) Write(b []byte) (int, error) {
	if len(b) > 0 {
		a.begin(b[0]&flagCompressed != 0)
	}
	return a.ResponseWriter.Write(b)
}

// turner returns what turns calls of any protocol into those of gRPC, for a service that speaks nothing else. The one that there was
// stays where the service is the same.
func (r *Router) turner(old *table, s *service) (http.Handler, error) {
	if was := old.service(s.name); was != nil && was.grpc != nil && was.registered == s.registered && bytes.Equal(was.set, s.set) {
		return was.grpc, nil
	}
	d, err := servicedesc.Read(s.set, s.name)
	if err != nil {
		return nil, err
	}
	next := http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		m := r.find(req.URL.Path)
		if m == nil {
			http.NotFound(w, req) // it was removed just now
			return
		}
		turned := *req
		turned.Body = turnedBody{req.Body}
		if m.unary {
			u := &turnedAnswer{ResponseWriter: w}
			defer u.begin(true)
			w = u
		}
		r.pass(w, &turned, identity.From(req.Context()), m)
	})
	return vanguard.NewTranscoder([]*vanguard.Service{vanguard.NewServiceWithSchema(d.Descriptor, next,
		vanguard.WithTargetProtocols(vanguard.ProtocolGRPC), vanguard.WithTargetCodecs(vanguard.CodecProto),
		// Not each service of gRPC takes compressed messages. What it answers is as its caller takes it.
		vanguard.WithNoTargetCompression(), vanguard.WithMaxMessageBufferBytes(maxTurnedBytes))}, turning()...)
}

// turning are the compressions of a transcoder, those of all of a gateway.
func turning() []vanguard.TranscoderOption {
	var options []vanguard.TranscoderOption
	for _, c := range server.Compressions() {
		options = append(options, vanguard.WithCompression(c.Name, c.Compressor, c.Decompressor))
	}
	return options
}
