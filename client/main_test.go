package client_test

import (
	"net/http"
	"testing"

	"go.uber.org/goleak"

	"github.com/nearside-dev/nearside/internal/meshtest"
)

// mesh is a real mesh of two regions, for the examples and for tests of what goes through all of it.
var mesh *meshtest.Mesh

// meshURL returns a gateway's.
func meshURL(region string) string { return mesh.URL(region) }

// withMesh runs the tests with a mesh.
type withMesh struct{ m *testing.M }

func (w withMesh) Run() int {
	var stop func()
	mesh, stop = meshtest.Shared(meshtest.Options{})
	defer stop()
	defer http.DefaultTransport.(*http.Transport).CloseIdleConnections()
	return w.m.Run()
}

func TestMain(m *testing.M) { goleak.VerifyTestMain(withMesh{m}) }
