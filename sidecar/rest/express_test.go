package rest

import (
	"context"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/protobuf/proto"

	businessv1 "github.com/nearside-dev/nearside/gen/nearside/business/v1"
	"github.com/nearside-dev/nearside/gen/nearside/business/v1/businessv1connect"
	"github.com/nearside-dev/nearside/internal/server"
)

// memory answers a user at once, and counts who asks otherwise.
type memory struct{ asked int }

func (m *memory) ServeHTTP(w http.ResponseWriter, _ *http.Request) {
	m.asked++
	w.WriteHeader(http.StatusTeapot)
}

func (m *memory) Express(path string) server.Express {
	if path == businessv1connect.UserServiceGetUserProcedure {
		return m
	}
	return nil
}

func (*memory) ServeExpress(_ context.Context, _ *http.Request, body []byte, a *server.ExpressAnswer) bool {
	var req businessv1.GetUserRequest
	if proto.Unmarshal(body, &req) != nil || req.GetId() != "usr_1" {
		return false
	}
	text, err := proto.Marshal(&businessv1.GetUserResponse{User: &businessv1.User{Id: req.GetId(), Name: "Ada"}})
	if err != nil {
		return false
	}
	a.Bytes = append(a.Bytes, "HTTP/1.1 200 OK\r\nContent-Type: application/proto\r\nEtag: \"1\"\r\nNearside-Region: eu\r\n"...)
	a.EndHead(len(text))
	a.Bytes = append(a.Bytes, text...)
	return true
}

// TestTheShortWayOverNetHTTP: a read that came over HTTP/2 has it, and what is not as usual has not.
func TestTheShortWayOverNetHTTP(t *testing.T) {
	m := &memory{}
	h, err := New(Options{Services: services(), Next: m, Logger: slog.New(slog.DiscardHandler), Registerer: prometheus.NewRegistry()})
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		path, header string
		short        bool
	}{
		{"/v1/users/usr_1", "", true},
		{"/v1/users/usr_1", "Origin: https://app.example.org", true},
		{"/v1/users/usr_1", "Te: trailers", false},
		{"/v1/users/usr_1", `If-None-Match: "1"`, false},
		{"/v1/users/usr_1?fields=id", "", false},
		{"/v1/users/usr_2", "", false},
		{"/v1/users", "", false},
	} {
		r := httptest.NewRequest(http.MethodGet, tc.path, http.NoBody)
		r.Proto, r.ProtoMajor, r.ProtoMinor = "HTTP/2.0", 2, 0
		if name, value, ok := strings.Cut(tc.header, ": "); ok {
			r.Header.Set(name, value)
		}
		w := httptest.NewRecorder()
		w.Header().Set("Vary", "Origin") // of who stands before
		m.asked = 0
		h.ServeHTTP(w, r)
		if short := m.asked == 0; short != tc.short {
			t.Errorf("%s with %q: short %v", tc.path, tc.header, short)
		}
		if !tc.short {
			continue
		}
		if w.Code != http.StatusOK || !strings.HasPrefix(w.Body.String(), `{"id":"usr_1","email":"","name":"Ada",`) ||
			w.Header().Get("Content-Type") != contentTypeJSON || w.Header().Get("Etag") != `"1"` || w.Header().Get("Nearside-Region") != "eu" ||
			w.Header().Values("Vary")[0] != "Origin" || len(w.Header().Values("Vary")) != 3 || w.Header().Get("Date") != "" {
			t.Errorf("%d %v %s", w.Code, w.Header(), w.Body)
		}
	}
}
