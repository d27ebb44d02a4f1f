package tools_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/reflect/protoreflect"

	controlv1 "github.com/nearside-dev/nearside/gen/nearside/control/v1"
	"github.com/nearside-dev/nearside/gen/nearside/control/v1/controlv1connect"
	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/internal/meshtest"
	"github.com/nearside-dev/nearside/internal/meshtest/echo"
	"github.com/nearside-dev/nearside/internal/meshtest/fileset"
	"github.com/nearside-dev/nearside/internal/meshtest/tools"
)

const (
	west    = "eu-west-1"
	queries = "/nearside.data.v1.DataService/Query"
	streams = "/nearside.data.v1.DataService/QueryStream"
	numbers = `{"database":"shop","statement":{"sql":"SELECT id FROM items ORDER BY id"}}`
	nowhere = `{"database":"nowhere","statement":{"sql":"SELECT 1"}}`

	// What an error is in buf curl's output.
	notFound = `{"code":"not_found","message":"nosuchdatabase:nowhere","details":[{"type":"google.rpc.ErrorInfo",`
)

func tool(t *testing.T, name string) string {
	t.Helper()
	path, err := tools.Find(name)
	if err != nil {
		t.Skip("missing tool: " + name)
	}
	return path
}

// start starts a mesh with authentication, three rows, and the echo service registered.
func start(t *testing.T) *meshtest.Mesh {
	t.Helper()
	m := meshtest.Start(t, meshtest.Options{Auth: true})
	m.Create("shop")
	m.Exec("", "shop", "CREATE TABLE items (id INTEGER PRIMARY KEY)")
	m.Exec("", "shop", "INSERT INTO items VALUES (1), (2), (3)")
	ln, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := echo.Server(echo.Handler())
	go func() { _ = server.Serve(ln) }() // ends with Close
	t.Cleanup(func() { _ = server.Close() })
	_, err = controlv1connect.NewServiceRegistryServiceClient(m.HTTP(), m.URL(west)).RegisterService(t.Context(),
		connect.NewRequest(&controlv1.RegisterServiceRequest{
			Descriptors: echo.Descriptors(), Endpoints: []*controlv1.ServiceEndpoint{{Url: "http://" + ln.Addr().String()}},
		}))
	if err != nil {
		t.Fatal(err)
	}
	m.WaitSync("shop")
	return m
}

// schema writes the descriptors of a file, and of all that it imports.
func schema(t *testing.T, file protoreflect.FileDescriptor) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "schema.binpb")
	if err := os.WriteFile(path, fileset.Of(file), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// run runs a tool and returns what it prints and its exit code.
func run(t *testing.T, name string, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	var out, complaints bytes.Buffer
	cmd := exec.CommandContext(t.Context(), name, args...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = t.TempDir(), &out, &complaints
	cmd.Env = append(os.Environ(), "NO_PROXY=127.0.0.1")
	if err := cmd.Run(); err != nil && !errors.As(err, new(*exec.ExitError)) {
		t.Fatal(err)
	}
	return out.String(), complaints.String(), cmd.ProcessState.ExitCode()
}

// compact is what a tool prints without spaces, which protobuf's JSON has at random.
func compact(text string) string { return strings.Join(strings.Fields(text), "") }

func TestBufCurl(t *testing.T) {
	buf := tool(t, "buf")
	m := start(t)
	descriptors := schema(t, datav1.File_nearside_data_v1_data_service_proto)
	caller := []string{"--header", "authorization: Bearer " + m.AdminToken()}
	for _, protocol := range []string{"connect", "grpc", "grpcweb"} {
		for source, flags := range map[string][]string{
			"reflection": {"--reflect-header", "authorization: Bearer " + m.AdminToken()}, "schema": {"--schema", descriptors},
		} {
			t.Run(protocol+" by "+source, func(t *testing.T) {
				curl := func(data, path string, headers ...string) (stdout, stderr string, code int) {
					args := append([]string{"curl", "--protocol", protocol, "--data", data}, flags...)
					return run(t, buf, append(append(args, headers...), m.URL(west)+path)...)
				}
				const rows = `"rows":[{"values":[{"integer":"1"}]},{"values":[{"integer":"2"}]},{"values":[{"integer":"3"}]}]`
				for _, path := range []string{queries, streams} {
					if out, complaints, code := curl(numbers, path, caller...); code != 0 || !strings.Contains(compact(out), rows) {
						t.Errorf("%s: exit code %d\n%s%s", path, code, out, complaints)
					}
					out, complaints, code := curl(nowhere, path, caller...)
					if code != int(connect.CodeNotFound)<<3 || out != "" || !strings.Contains(compact(complaints), notFound) {
						t.Errorf("%s, an error: exit code %d\n%s%s", path, code, out, complaints)
					}
					if out, complaints, code := curl(numbers, path); code != int(connect.CodeUnauthenticated)<<3 || out != "" {
						t.Errorf("%s, nobody: exit code %d\n%s%s", path, code, out, complaints)
					}
				}
				if source == "schema" {
					return // which does not have the other service
				}
				for path, want := range map[string]string{echo.Sum: `"6"`, echo.Chat: `"1""2""3"`} {
					data := map[string]string{echo.Sum: `"1" "2" "3"`, echo.Chat: `"1" "2" "3"`}[path]
					if out, complaints, code := curl(data, path, caller...); code != 0 || compact(out) != want {
						t.Errorf("%s: exit code %d\n%s%s", path, code, out, complaints)
					}
				}
			})
		}
	}
	out, complaints, code := run(t, buf, "curl", "--list-services", "--reflect-header", "authorization: Bearer "+m.AdminToken(), m.URL(west))
	if code != 0 || !strings.Contains(out, "nearside.data.v1.DataService\n") || !strings.Contains(out, echo.Name+"\n") {
		t.Errorf("services: exit code %d\n%s%s", code, out, complaints)
	}
}

func TestGhz(t *testing.T) {
	ghz := tool(t, "ghz")
	m := start(t)
	caller := `{"authorization":"Bearer ` + m.AdminToken() + `"}`
	addr := strings.TrimPrefix(m.URL(west), "http://")
	for _, tc := range []struct {
		name, call, data string
		known            bool
		want             string
	}{
		{"a method of the mesh", queries, numbers, true, "OK"},
		{"a stream", streams, numbers, true, "OK"},
		{"a registered service", echo.Echo, `"hello"`, true, "OK"},
		{"an error", queries, nowhere, true, "NotFound"},
		{"nobody", queries, numbers, false, "Unauthenticated"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			metadata := map[bool]string{true: caller, false: "{}"}[tc.known]
			out, complaints, code := run(t, ghz, "--insecure", "--total", "200", "--concurrency", "10", "--connections", "2", "--format", "json",
				"--reflect-metadata", caller, "--call", strings.TrimPrefix(tc.call, "/"), "--data", tc.data, "--metadata", metadata, addr)
			var report struct {
				Count    int            `json:"count"`
				Statuses map[string]int `json:"statusCodeDistribution"`
			}
			if err := json.Unmarshal([]byte(out), &report); err != nil || code != 0 {
				t.Fatalf("exit code %d, %v\n%s%s", code, err, out, complaints)
			}
			if report.Count != 200 || len(report.Statuses) != 1 || report.Statuses[tc.want] != 200 {
				t.Errorf("of %d calls: %v, want %s for all 200", report.Count, report.Statuses, tc.want)
			}
		})
	}
}
