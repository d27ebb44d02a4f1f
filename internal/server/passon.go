package server

import "net/http"

// PassOn returns what a request is to be answered with whose body somebody else reads meanwhile, a transport that passes it on. Of
// HTTP/1 the answer may begin before the body has come. Where it does, the connection ends with it: nobody knows then where on it the
// next request begins, and the rest of the body must not be taken for one.
func PassOn(w http.ResponseWriter, r *http.Request) http.ResponseWriter {
	if r.ProtoMajor != 1 {
		return w
	}
	// Or net/http reads the rest of the request before it sends the answer, and cuts one of them short.
	_ = http.NewResponseController(w).EnableFullDuplex() // an error means that it is always so
	b, ok := r.Body.(*body)
	if !ok {
		return w // there is no body
	}
	return &passingWriter{ResponseWriter: w, body: b}
}

type passingWriter struct {
	http.ResponseWriter

	body  *body
	began bool
}

// WriteHeader implements http.ResponseWriter.
func (p *passingWriter) WriteHeader(status int) {
	if !p.began && status >= http.StatusOK {
		p.began = true
		if !p.body.read.Load() {
			p.Header().Set("Connection", "close")
		}
	}
	p.ResponseWriter.WriteHeader(status)
}

// Write implements http.ResponseWriter.
func (p *passingWriter) Write(b []byte) (int, error) {
	if !p.began {
		p.WriteHeader(http.StatusOK)
	}
	return p.ResponseWriter.Write(b)
}

// Flush implements http.Flusher.
func (p *passingWriter) Flush() {
	if !p.began {
		p.WriteHeader(http.StatusOK)
	}
	_ = http.NewResponseController(p.ResponseWriter).Flush() // the next write fails too
}

// Unwrap lets http.ResponseController find the writer.
func (p *passingWriter) Unwrap() http.ResponseWriter { return p.ResponseWriter }
