package mesh

import (
	"net"
	"net/http"
	"net/url"
	"testing"
	"time"
)

// TestLearn asks endpoints what they speak that no check was made of.
func TestLearn(t *testing.T) {
	for _, test := range []struct {
		name         string
		http1, http2 bool
		want         int32
	}{{"HTTP/1.1 alone", true, false, h2Not}, {"HTTP/2 alone", false, true, h2Spoken}, {"both", true, true, h2Spoken}, {"nobody", false, false, h2Unknown}} {
		t.Run(test.name, func(t *testing.T) {
			ln, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			s := &http.Server{ReadHeaderTimeout: time.Minute, Protocols: new(http.Protocols)}
			s.Protocols.SetHTTP1(test.http1)
			s.Protocols.SetUnencryptedHTTP2(test.http2)
			if test.want == h2Unknown {
				_ = ln.Close()
			} else {
				go func() { _ = s.Serve(ln) }() // ends with Close
				defer s.Close()
			}
			r := &Router{region: "eu"}
			e := r.newEndpoint(place{}, &url.URL{Scheme: "http", Host: ln.Addr().String()})
			for range 2 {
				if got := e.learn(t.Context()); got != test.want {
					t.Errorf("learned %d, want %d", got, test.want)
				}
			}
		})
	}
}
