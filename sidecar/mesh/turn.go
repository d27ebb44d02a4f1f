package mesh

import (
	"bytes"
	"io"
	"net/http"
	"strings"

	"connectrpc.com/vanguard"

	"github.com/nearside-dev/nearside/internal/identity"
	"github.com/nearside-dev/nearside/internal/servicedesc"
)

// maxTurnedBytes bounds a message that is turned from one codec into another.
const maxTurnedBytes = 72 << 20

// speaksGRPC reports whether a call is one of gRPC, and not of gRPC-Web.
func speaksGRPC(req *http.Request) bool {
	kind := req.Header.Get("Content-Type")
	return strings.HasPrefix(kind, "application/grpc") && !strings.HasPrefix(kind, "application/grpc-web")
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
		vanguard.WithMaxMessageBufferBytes(maxTurnedBytes))})
}
