package services_test

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	controlv1 "github.com/nearside-dev/nearside/gen/nearside/control/v1"
	"github.com/nearside-dev/nearside/internal/fieldrules"
	"github.com/nearside-dev/nearside/internal/meshtest"
	"github.com/nearside-dev/nearside/internal/meshtest/ruled"
)

// TestRequestsThatCannotBeChecked has nothing reach a service that its gateway could not read.
func TestRequestsThatCannotBeChecked(t *testing.T) {
	m := meshtest.Start(t, meshtest.Options{Regions: []string{"eu-west-1"}})
	h := ruled.NewHandler()
	register(t, m, "eu-west-1", &controlv1.RegisterServiceRequest{
		Endpoints: at(serve(t, "", h).url), Descriptors: ruled.Descriptors(ruled.File()),
	})
	base := m.URL("eu-west-1")
	good, err := proto.Marshal(ruled.Order(ruled.Good))
	if err != nil {
		t.Fatal(err)
	}
	wrong, err := proto.Marshal(bad())
	if err != nil {
		t.Fatal(err)
	}
	text := inJSON(t, ruled.Order(ruled.Good))
	envelope := func(flags byte, message []byte) []byte {
		return append(binary.BigEndian.AppendUint32([]byte{flags}, uint32(len(message))), message...)
	}
	large := append(bytes.Clone(good), 3<<3|2, 0x80, 0x80, 0x80, 0x04) // the product, again
	large = append(large, bytes.Repeat([]byte("x"), 8<<20)...)[:fieldrules.MaxBytes+1]
	announced := append(binary.BigEndian.AppendUint32([]byte{0}, uint32(len(large))), large[:100]...)
	for _, test := range []struct {
		name, procedure, kind string
		body                  []byte
		header                []string
		status                int
		answer                string // part of it, or the status of gRPC
	}{
		{"good", ruled.Place, "application/json", text, nil, 200, "pen"},
		{"with a charset", ruled.Place, "application/json; charset=UTF-8", text, nil, 200, "pen"},
		{"another charset", ruled.Place, "application/json; charset=latin-1", text, nil, 415, ""},
		{"another codec", ruled.Place, "application/xml", text, nil, 415, ""},
		{"no type", ruled.Place, "", text, nil, 415, ""},
		{"two types", ruled.Place, "application/json", text, []string{"Content-Type: application/proto"}, 415, ""},
		{"no JSON", ruled.Place, "application/json", []byte(`{"id":{}}`), nil, 400, "invalid_argument"},
		{"no body", ruled.Place, "application/json", nil, nil, 400, "invalid_argument"},
		{"no body, of protobuf", ruled.Place, "application/proto", nil, nil, 400, "FIELD_INVALID"},
		{"an unknown compression", ruled.Place, "application/json", text, []string{"Content-Encoding: br"}, 501, "unimplemented"},
		{"identity", ruled.Place, "application/json", text, []string{"Content-Encoding: identity"}, 200, "pen"},
		{"no gzip", ruled.Place, "application/json", text, []string{"Content-Encoding: gzip"}, 400, "invalid_argument"},
		{"too large", ruled.Place, "application/proto", large, nil, 429, "REQUEST_TOO_LARGE"},
		{"gRPC-Web", ruled.Place, "application/grpc-web+proto", envelope(0, good), nil, 200, "pen"},
		{"gRPC-Web, bad", ruled.Place, "application/grpc-web+proto", envelope(0, wrong), nil, 200, "3"},
		{"gRPC-Web in base64", ruled.Place, "application/grpc-web-text", []byte(base64.StdEncoding.EncodeToString(envelope(0, good))), nil, 200, "AAAA"},
		{"gRPC-Web in base64, bad", ruled.Place, "application/grpc-web-text", []byte(base64.StdEncoding.EncodeToString(envelope(0, wrong))), nil, 200, "3"},
		{"compressed, nobody says how", ruled.Place, "application/grpc-web+proto", envelope(1, good), nil, 200, "13"},
		{"compressed as identity", ruled.Place, "application/grpc-web+proto", envelope(1, good), []string{"Grpc-Encoding: identity"}, 200, "13"},
		{"not compressed, although it may be", ruled.Place, "application/grpc-web+proto", envelope(0, good), []string{"Grpc-Encoding: gzip"}, 200, "\x1f\x8b"},
		{"compressed, unknown", ruled.Place, "application/grpc-web+proto", envelope(1, good), []string{"Grpc-Encoding: br"}, 200, "12"},
		{"other flags", ruled.Place, "application/grpc-web+proto", envelope(4, good), nil, 200, "3"},
		{"cut off", ruled.Place, "application/grpc-web+proto", envelope(0, good)[:20], nil, 200, "3"},
		{"too large an envelope", ruled.Place, "application/grpc-web+proto", announced, nil, 200, "8"},
		{"a second message, bad", ruled.Place, "application/grpc-web+proto", append(envelope(0, good), envelope(0, wrong)...), nil, 200, "3"},
		{"a stream, cut off", ruled.Collect, "application/connect+json", envelope(0, text)[:20], nil, 200, "invalid_argument"},
		{"a stream, too large", ruled.Collect, "application/connect+proto", announced, nil, 200, "REQUEST_TOO_LARGE"},
		{"a stream, ended by its caller", ruled.Collect, "application/connect+json", envelope(2, text), nil, 200, "invalid_argument"},
		{"a stream without envelopes", ruled.Collect, "application/json", text, nil, 415, ""},
	} {
		seen := h.Messages(test.procedure)
		status, answer, head := post(t, base+test.procedure, test.kind, test.body, test.header...)
		if status != test.status || !strings.Contains(answer, test.answer) && head.Get("Grpc-Status") != test.answer {
			t.Errorf("%s: %d %.200s %v", test.name, status, answer, head)
		}
		if passed := strings.Contains(answer, "pen") || strings.Contains(answer, test.answer) && len(answer) > 100 && test.status == 200; h.Messages(test.procedure) != seen && !passed {
			t.Errorf("%s: the service saw it", test.name)
		}
	}
	get := func(query string) (int, string) {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, base+ruled.Find+"?"+query, nil)
		if err != nil {
			t.Fatal(err)
		}
		status, text, _ := send(t, req, "")
		return status, text
	}
	for _, test := range []struct {
		name, query string
		status      int
	}{
		{"good", "connect=v1&encoding=json&message=" + url.QueryEscape(string(text)), 200},
		{"bad", "connect=v1&encoding=json&message=%7B%7D", 400},
		{"in base64", "connect=v1&encoding=proto&base64=1&message=" + base64.RawURLEncoding.EncodeToString(good), 200},
		{"in base64, bad", "connect=v1&encoding=proto&base64=1&message=" + base64.URLEncoding.EncodeToString(wrong), 400},
		{"no base64", "connect=v1&encoding=proto&base64=1&message=%20", 400},
		{"nothing", "", 415},
		{"no message", "connect=v1&encoding=json", 400},
		{"two messages", "connect=v1&encoding=json&message=" + url.QueryEscape(string(text)) + "&message=%7B%7D", 400},
		{"malformed", "connect=v1&encoding=json&message=" + url.QueryEscape(string(text)) + "&a;b", 400},
	} {
		seen := h.Messages(ruled.Find)
		if status, text := get(test.query); status != test.status || (h.Messages(ruled.Find) != seen) != (status == 200) {
			t.Errorf("by GET, %s: %d %s", test.name, status, text)
		}
	}
}
