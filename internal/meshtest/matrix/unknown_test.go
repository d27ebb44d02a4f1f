package matrix_test

import (
	"net/http"
	"testing"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/nearside-dev/nearside/internal/meshtest"
)

// TestUnknownMethods: a method that is not there is unimplemented in the caller's protocol, whether its service is there or not, with
// authentication and without.
func TestUnknownMethods(t *testing.T) {
	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true)
	transport := &http.Transport{Protocols: protocols}
	defer transport.CloseIdleConnections()
	for _, auth := range []bool{true, false} {
		m := meshtest.Start(t, meshtest.Options{Regions: []string{region}, Auth: auth})
		client := &http.Client{Transport: transport}
		if auth {
			client.Transport = &recorder{next: transport, token: m.AdminToken()}
		}
		for _, path := range []string{
			"/nearside.data.v1.DataService/Nope", "/nearside.control.v1.StatusService/Nope", "/nearside.data.v1.DataService/", "/acme.v1.Nowhere/Nope",
		} {
			for _, d := range doors {
				if d.text || d.get {
					continue
				}
				_, err := connect.NewClient[emptypb.Empty, emptypb.Empty](client, m.URL(region)+path, d.options...).
					CallUnary(t.Context(), connect.NewRequest(&emptypb.Empty{}))
				if !connect.IsWireError(err) || connect.CodeOf(err) != connect.CodeUnimplemented {
					t.Errorf("%s with %s, authentication %v: %v", path, d.name, auth, err)
				}
			}
		}
	}
}
