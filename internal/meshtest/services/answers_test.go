package services_test

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	controlv1 "github.com/nearside-dev/nearside/gen/nearside/control/v1"
	"github.com/nearside-dev/nearside/internal/meshtest"
	"github.com/nearside-dev/nearside/internal/meshtest/echo"
)

// saying starts an endpoint that answers calls with what they ask for, as it is.
func saying(t *testing.T) (url string) {
	t.Helper()
	ln, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ln.Close() })
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go say(c)
		}
	}()
	return "http://" + ln.Addr().String()
}

const endless = "endless"

func say(c net.Conn) {
	defer c.Close()
	in := bufio.NewReader(c)
	for {
		req, err := http.ReadRequest(in)
		if err != nil || req.Method == "PRI" {
			return
		}
		_, _ = io.Copy(io.Discard, req.Body)
		text := strings.NewReplacer(`\r`, "\r", `\n`, "\n").Replace(req.Header.Get("X-Say"))
		for err == nil && text == endless {
			_, err = io.WriteString(c, "HTTP/1.1 103 Early\r\n\r\n")
		}
		if text == "" {
			text = "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"
		}
		if _, err := io.WriteString(c, text); err != nil {
			return
		}
	}
}

// TestAnswersOfEndpoints that are none are errors at once, by each way that a call may take; what else is odd about one is not passed on.
func TestAnswersOfEndpoints(t *testing.T) {
	m := meshtest.Start(t, meshtest.Options{})
	register(t, m, "eu-west-1", &controlv1.RegisterServiceRequest{Endpoints: at(saying(t))})
	for _, way := range []struct {
		name  string
		http2 bool
		te    string
	}{{"HTTP/2", true, ""}, {"short", false, ""}, {"HTTP/1.1", false, "trailers"}} { // HTTP/2 first: nobody knows yet what the endpoint speaks
		for _, test := range []struct {
			name, say string
			status    int
			other     int // what a way that knows it may say, too
		}{
			{"nothing odd", `HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}`, 200, 0},
			{"another protocol", `HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\nx`, 503, 0},
			{"no status", `HTTP/1.1 099 What\r\nContent-Length: 2\r\n\r\n{}`, 503, 0},
			{"other ends of lines", `HTTP/1.1 200 OK\nContent-Length: 2\n\n{}`, 503, 200},
			{"early ones", `HTTP/1.1 103 Early\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}`, 200, 0},
			{"early ones without an end", endless, 503, 0},
			{"a length of nothing", `HTTP/1.1 204 No Content\r\nContent-Length: 2\r\n\r\n`, 204, 0},
			{"an endpoint's own", `HTTP/1.1 200 OK\r\nAlt-Svc: h3=":1"\r\nStrict-Transport-Security: max-age=1\r\nContent-Length: 6\r\n\r\n<html>`, 200, 0},
		} {
			t.Run(way.name+"/"+test.name, func(t *testing.T) {
				req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, m.URL("eu-west-1")+echo.Echo, strings.NewReader(`"x"`))
				if err != nil {
					t.Fatal(err)
				}
				req.Header.Set("Content-Type", "application/json")
				req.Header.Set("X-Say", test.say)
				if way.te != "" {
					req.Header.Set("Te", way.te)
				}
				res, err := client(t, way.http2).Do(req)
				if err != nil {
					t.Fatal(err)
				}
				defer res.Body.Close()
				if _, err := io.ReadAll(res.Body); err != nil {
					t.Error(err)
				}
				if res.StatusCode != test.status && res.StatusCode != test.other {
					t.Errorf("status %d, want %d", res.StatusCode, test.status)
				}
				for _, name := range []string{"Alt-Svc", "Strict-Transport-Security", "Upgrade"} {
					if v := res.Header[name]; v != nil {
						t.Errorf("%s: %q", name, v)
					}
				}
				if kind := res.Header["Content-Type"]; res.StatusCode == http.StatusOK && kind != nil {
					t.Errorf("the type was guessed: %s", kind)
				}
			})
		}
	}
}
