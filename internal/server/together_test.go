package server

import (
	"bufio"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
)

// TestTogether sends three lines together and then one by one, over both versions of HTTP.
func TestTogether(t *testing.T) {
	for _, version := range []int{1, 2} {
		next := make(chan struct{})
		s := httptest.NewUnstartedServer(AllowTogether(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			line := func(text string) {
				_, _ = io.WriteString(w, text+"\n")
				w.(http.Flusher).Flush()
			}
			line("first")
			<-next
			send := Together(r.Context())
			line("second")
			line("third")
			select { // whoever reads has nothing yet that would let it go on
			case <-next:
				t.Error("what was held has been sent")
			default:
			}
			send()
			<-next
			line("fourth")
		})))
		s.EnableHTTP2 = version == 2
		s.StartTLS()
		res, err := s.Client().Get(s.URL)
		if err != nil {
			t.Fatal(err)
		}
		if res.ProtoMajor != version {
			t.Errorf("HTTP/%d", res.ProtoMajor)
		}
		lines := bufio.NewScanner(res.Body)
		for _, want := range []string{"first", "second", "third", "fourth"} {
			if !lines.Scan() || lines.Text() != want {
				t.Fatalf("got %q, want %q: %v", lines.Text(), want, lines.Err())
			}
			if want == "first" || want == "third" {
				next <- struct{}{}
			}
		}
		if err := res.Body.Close(); err != nil {
			t.Error(err)
		}
		s.Close()
	}
	Together(t.Context())() // of no stream
}
