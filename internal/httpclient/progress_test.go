package httpclient

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
)

// What has come of an answer is told before all of it is there.
func TestProgress(t *testing.T) {
	rest := make(chan struct{})
	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true)
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "half")
		_ = http.NewResponseController(w).Flush()
		<-rest
		_, _ = io.WriteString(w, "half")
	}))
	s.Config.Protocols = protocols
	s.Start()
	defer s.Close()
	c := NewStreaming()
	defer c.CloseIdleConnections()
	times := 0
	ctx := WithProgress(t.Context(), func() {
		if times++; times == 1 {
			close(rest) // or the answer would never end
		}
	})
	for _, ctx := range []context.Context{ctx, t.Context()} {
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.URL, nil)
		if err != nil {
			t.Fatal(err)
		}
		res, err := c.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(res.Body)
		if err != nil || string(b) != "halfhalf" {
			t.Errorf("%q, %v", b, err)
		}
		if err := res.Body.Close(); err != nil {
			t.Error(err)
		}
	}
	if times < 2 {
		t.Errorf("told %d times", times)
	}
}
