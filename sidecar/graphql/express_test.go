package graphql

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"google.golang.org/protobuf/proto"

	businessv1 "github.com/nearside-dev/nearside/gen/nearside/business/v1"
	"github.com/nearside-dev/nearside/gen/nearside/business/v1/businessv1connect"
	"github.com/nearside-dev/nearside/internal/server"
)

// memory answers a user at once, and counts who asks otherwise.
type memory struct{ asked atomic.Int64 }

func (m *memory) ServeHTTP(w http.ResponseWriter, _ *http.Request) {
	m.asked.Add(1)
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
	a.Bytes = append(a.Bytes, "HTTP/1.1 200 OK\r\nContent-Type: application/proto\r\n"...)
	a.EndHead(len(text))
	a.Bytes = append(a.Bytes, text...)
	return true
}

// TestTheShortWayOverNetHTTP: a look-up that came over HTTP/2 has it, and what has not is answered with all of its body.
func TestTheShortWayOverNetHTTP(t *testing.T) {
	m := &memory{}
	h := handlerOf(t, m, Service{Descriptor: businessv1.File_nearside_business_v1_user_service_proto.Services().Get(0)})
	const one = `{"query":"{ user(id: \"usr_1\") { id name } }"}`
	for _, tc := range []struct {
		name, body, header, want string
		calls                    int64
	}{
		{"a look-up", one, "", `{"data":{"user":{"id":"usr_1","name":"Ada"}}}`, 0},
		{"of a page", one, "Origin: https://app.example.org", `{"data":{"user":{"id":"usr_1","name":"Ada"}}}`, 0},
		{"not as usual", one, "Te: trailers", `"path":["user"]`, 1},
		{"not in memory", strings.Replace(one, "usr_1", "usr_2", 1), "", `"path":["user"]`, 1},
		{"two fields", `{"query":"{ a: user(id: \"usr_1\") { id } b: user(id: \"usr_2\") { id } }"}`, "", `"path":["b"]`, 2},
		{"no query", `{"query":"{"}`, "", reasonParse, 0},
		{"a body that is cut", one[:20], "Content-Length: 1000", reasonRequest, 0},
	} {
		r := httptest.NewRequest(http.MethodPost, Path, strings.NewReader(tc.body))
		r.Proto, r.ProtoMajor, r.ProtoMinor = "HTTP/2.0", 2, 0
		r.Header.Set("Content-Type", typeJSON)
		if name, value, _ := strings.Cut(tc.header, ": "); name == "Content-Length" {
			r.ContentLength = 1000
		} else if name != "" {
			r.Header.Set(name, value)
		}
		w := httptest.NewRecorder()
		m.asked.Store(0)
		h.ServeHTTP(w, r)
		if m.asked.Load() != tc.calls || !strings.Contains(w.Body.String(), tc.want) {
			t.Errorf("%s: %d calls, %d %s", tc.name, m.asked.Load(), w.Code, w.Body)
		}
	}
}
