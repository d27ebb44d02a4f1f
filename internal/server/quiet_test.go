package server

import (
	"io"
	"net/http"
	"testing"
	"time"
)

// A stream that says nothing for longer than its caller may take in nothing goes on.
func TestSilence(t *testing.T) {
	const stall = time.Second
	_, url := start(t, AllowSilence(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for i, piece := range []string{"before ", "after"} {
			if i > 0 {
				select {
				case <-time.After(stall + stall/2):
				case <-r.Context().Done():
					return
				}
			}
			if _, err := io.WriteString(w, piece); err != nil {
				t.Error(err)
			}
			if err := http.NewResponseController(w).Flush(); err != nil {
				t.Error(err)
			}
		}
	})), Config{Name: "test", StallTimeout: stall})
	res, err := streamingClient(t).Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if b, err := io.ReadAll(res.Body); err != nil || string(b) != "before after" {
		t.Errorf("read %q, %v", b, err)
	}
}
