package sidecar

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"connectrpc.com/connect"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/types/known/durationpb"

	controlv1 "github.com/nearside-dev/nearside/gen/nearside/control/v1"
	"github.com/nearside-dev/nearside/gen/nearside/control/v1/controlv1connect"
	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/gen/nearside/data/v1/datav1connect"
	"github.com/nearside-dev/nearside/internal/bookmark"
	"github.com/nearside-dev/nearside/internal/httpclient"
	"github.com/nearside-dev/nearside/internal/rpcerr"
	"github.com/nearside-dev/nearside/internal/server"
	"github.com/nearside-dev/nearside/internal/value"
	"github.com/nearside-dev/nearside/sidecar/replica"
	"github.com/nearside-dev/nearside/sidecar/replica/replicatest"
)

func httpClient(t *testing.T) *http.Client {
	c := httpclient.NewUnary()
	t.Cleanup(c.CloseIdleConnections)
	return c
}

func getItem(id int64, c *datav1.Consistency) *connect.Request[datav1.GetRequest] {
	return connect.NewRequest(&datav1.GetRequest{
		Database: "shop", Table: "items", Consistency: c,
		Key: &datav1.Key{Values: []*datav1.Value{value.ToProto(value.Integer(id))}},
	})
}

func fetch(t *testing.T, c *http.Client, url string) (status int, body string) {
	t.Helper()
	res, err := c.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, strings.TrimSpace(string(b))
}

var execute = &datav1.ExecuteRequest{Database: "shop", Statement: &datav1.Statement{Sql: "DELETE FROM items"}}

func TestRegion(t *testing.T) {
	p := newPrimary(t)
	mounted := ""
	s := startSidecar(t, Config{PrimaryURL: p.url(), Mount: func(mux *http.ServeMux, url string, o ...connect.HandlerOption) error {
		mounted = url
		mux.HandleFunc("/mounted", func(w http.ResponseWriter, _ *http.Request) { _, _ = fmt.Fprint(w, len(o) > 0) })
		return nil
	}})
	waitReady(t, s)

	stream := httpclient.NewStreaming()
	t.Cleanup(stream.CloseIdleConnections)
	unary := httpClient(t)
	for name, client := range map[string]datav1connect.DataServiceClient{
		"connect":  datav1connect.NewDataServiceClient(unary, s.URL()),
		"json":     datav1connect.NewDataServiceClient(unary, s.URL(), connect.WithProtoJSON()),
		"get":      datav1connect.NewDataServiceClient(unary, s.URL(), connect.WithHTTPGet()),
		"grpc":     datav1connect.NewDataServiceClient(stream, s.URL(), connect.WithGRPC()),
		"grpc-web": datav1connect.NewDataServiceClient(unary, s.URL(), connect.WithGRPCWeb()),
	} {
		t.Run(name, func(t *testing.T) {
			res, err := client.Get(t.Context(), getItem(1, &datav1.Consistency{
				Level: datav1.Consistency_LEVEL_MAX_STALENESS, MaxStaleness: durationpb.New(60e9),
			}))
			if err != nil {
				t.Fatal(err)
			}
			a := res.Msg.Answer
			if res.Msg.Row.GetValues()[1].GetText() != "apple" || a.Source != datav1.Source_SOURCE_REPLICA || a.StalenessMs > 60_000 {
				t.Errorf("answer is %v", res.Msg)
			}
			want := map[string]string{
				"nearside-bookmark": a.Bookmark, "nearside-region": "eu-west-1", "nearside-source": "REPLICA",
				"nearside-staleness-ms": fmt.Sprint(a.StalenessMs),
			}
			for name, v := range want {
				if got := res.Header().Get(name); got != v {
					t.Errorf("header %s is %q, want %q", name, got, v)
				}
			}
			written, err := client.Execute(t.Context(), connect.NewRequest(execute))
			if err != nil || written.Msg.Answer.Region != "eu-west-1" || !written.Msg.Answer.ServedByPrimary {
				t.Errorf("execute: %v, %v", written, err)
			}
			watch, err := client.Watch(t.Context(), connect.NewRequest(&datav1.WatchRequest{Database: "shop", Table: "items"}))
			if err == nil {
				if !watch.Receive() || watch.Msg().GetAnswer().GetRegion() != "eu-west-1" || len(watch.Msg().GetColumns()) != 2 {
					t.Errorf("watch begins with %v", watch.Msg())
				}
				err = errors.Join(watch.Err(), watch.Close())
			}
			if err != nil {
				t.Errorf("watch: %v", err)
			}
		})
	}

	// A commit that the caller has seen elsewhere is waited for.
	p.commit(replicatest.Put(items, item(1, "pear")))
	codec, err := bookmark.New(secret)
	if err != nil {
		t.Fatal(err)
	}
	client := datav1connect.NewDataServiceClient(unary, s.URL())
	res, err := client.Get(t.Context(), getItem(1, &datav1.Consistency{
		Bookmark: codec.Encode(bookmark.Bookmark{DatabaseID: shopID, Epoch: 1, Version: 2}), MaxWait: durationpb.New(10e9),
	}))
	if err != nil || res.Msg.Row.GetValues()[1].GetText() != "pear" || res.Msg.Answer.Source != datav1.Source_SOURCE_REPLICA {
		t.Errorf("after a commit: %v, %v", res, err)
	}

	if mounted != s.URL() {
		t.Errorf("services reach data at %q", mounted)
	}
	for url, want := range map[string]string{
		s.URL() + "/healthz": "ok", s.URL() + "/readyz": "ok", s.AdminURL() + "/readyz": "ok", s.URL() + "/mounted": "true",
	} {
		if status, body := fetch(t, unary, url); status != 200 || body != want {
			t.Errorf("%s: %d %q", url, status, body)
		}
	}
	_, metrics := fetch(t, unary, s.AdminURL()+"/metrics")
	for _, want := range []string{
		`nearside_reads_total{method="Get",source="REPLICA"} 6`, `nearside_forward_calls_total{method="Execute",outcome="ok"} 5`,
		`nearside_forward_breaker_state 0`, `nearside_replica_applied_version{database="shop"} 2`, `nearside_build_info{`,
		`nearside_server_connections{listener="gateway"}`, `nearside_bookmark_waits_total{reached="false"} 0`,
	} {
		if !strings.Contains(metrics, want) {
			t.Errorf("metrics lack %s", want)
		}
	}
}

func TestPrimaryGoesAndComesBack(t *testing.T) {
	p := newPrimary(t)
	dir := t.TempDir()
	s := startSidecar(t, Config{PrimaryURL: p.url(), Dir: dir})
	waitReady(t, s)
	client := datav1connect.NewDataServiceClient(httpClient(t), s.URL())
	p.stop(t)

	away := func(client datav1connect.DataServiceClient) {
		t.Helper()
		res, err := client.Get(t.Context(), getItem(1, nil))
		if err != nil || res.Msg.Answer.Source != datav1.Source_SOURCE_REPLICA {
			t.Fatalf("read without the primary: %v, %v", res, err)
		}
		_, err = client.Get(t.Context(), getItem(1, &datav1.Consistency{Level: datav1.Consistency_LEVEL_PRIMARY}))
		_, writeErr := client.Execute(t.Context(), connect.NewRequest(execute))
		for _, err := range []error{err, writeErr} {
			e, ok := rpcerr.FromError(err)
			if !ok || e.Reason() != datav1.ErrorReason_ERROR_REASON_PRIMARY_UNAVAILABLE || e.RetryAfter() == 0 {
				t.Errorf("error is %v", err)
			}
		}
		if err := s.Ready(); err != nil {
			t.Errorf("not ready: %v", err)
		}
	}
	for range 3 { // the breaker opens on the way
		away(client)
	}

	// Neither does a restart need it.
	stopSidecar(t, s)
	s = startSidecar(t, Config{PrimaryURL: p.url(), Dir: dir})
	client = datav1connect.NewDataServiceClient(httpClient(t), s.URL())
	for range 3 {
		away(client)
	}

	select {
	case <-p.pings: // of the time before
	default:
	}
	p.start(t)
	<-p.pings // the sidecar has heard that the primary is back before it sends one
	if _, err := client.Execute(t.Context(), connect.NewRequest(execute)); err != nil {
		t.Errorf("the primary is back, and a write fails: %v", err)
	}
}

func TestNotReadyWithoutCopy(t *testing.T) {
	p := newPrimary(t)
	p.stop(t)
	s := startSidecar(t, Config{PrimaryURL: p.url()})
	unary := httpClient(t)
	if status, body := fetch(t, unary, s.URL()+"/readyz"); status != 503 || body != "not synchronised: no copy yet" {
		t.Errorf("readyz: %d %q", status, body)
	}
	if status, _ := fetch(t, unary, s.URL()+"/healthz"); status != 200 {
		t.Errorf("healthz: %d", status)
	}
	client := datav1connect.NewDataServiceClient(unary, s.URL())
	_, err := client.Get(t.Context(), getItem(1, nil))
	if rpcerr.ReasonOf(err) != datav1.ErrorReason_ERROR_REASON_PRIMARY_UNAVAILABLE {
		t.Errorf("a read that nobody can answer: %v", err)
	}
	p.start(t)
	waitReady(t, s)
	if res, err := client.Get(t.Context(), getItem(1, nil)); err != nil || res.Msg.Answer.Source != datav1.Source_SOURCE_REPLICA {
		t.Errorf("when ready: %v, %v", res, err)
	}
}

func TestStatus(t *testing.T) {
	p := newPrimary(t)
	east := startSidecar(t, Config{PrimaryURL: p.url(), Region: "us-east-1"})
	west := startSidecar(t, Config{PrimaryURL: p.url(), Region: "eu-west-1"})
	gone, err := server.Listen(t.Context(), "127.0.0.1:0", false)
	if err != nil {
		t.Fatal(err)
	}
	goneURL := "http://" + gone.Addr().String()
	gone.Close()
	p.commitMesh(replicatest.Put(regions,
		meshRegion(1, "eu-west-1", west.URL(), 0), meshRegion(2, "us-east-1", east.URL(), 1), meshRegion(3, "ap-south-1", goneURL, 0)))
	waitReady(t, east)
	waitReady(t, west)
	// Both have that commit: a later one needs it.
	p.commit(replicatest.Put(items, item(2, "plum")))
	codec, err := bookmark.New(secret)
	if err != nil {
		t.Fatal(err)
	}
	unary := httpClient(t)
	for _, s := range []*Sidecar{east, west} {
		res, err := datav1connect.NewDataServiceClient(unary, s.URL()).Get(t.Context(), getItem(2, &datav1.Consistency{
			Bookmark: codec.Encode(bookmark.Bookmark{DatabaseID: shopID, Epoch: 1, Version: 2}), MaxWait: durationpb.New(10e9),
		}))
		if err != nil || res.Msg.Answer.Source != datav1.Source_SOURCE_REPLICA {
			t.Fatalf("%v, %v", res, err)
		}
	}

	client := controlv1connect.NewStatusServiceClient(unary, west.URL())
	for local, want := range map[bool][]string{
		true: {"eu-west-1 ready=true primary=false connected=true closed shop@2"},
		false: {
			"us-east-1 ready=true primary=true connected=true closed shop@2", "ap-south-1 ready=false primary=false connected=false ",
			"eu-west-1 ready=true primary=false connected=true closed shop@2",
		},
	} {
		res, err := client.GetStatus(t.Context(), connect.NewRequest(&controlv1.GetStatusRequest{LocalOnly: local}))
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, r := range res.Msg.Regions {
			line := fmt.Sprintf("%s ready=%v primary=%v connected=%v %s", r.Name, r.Ready, r.Primary, r.Connected, r.Breaker)
			for _, d := range r.Databases {
				line += fmt.Sprintf(" %s@%d", d.Name, d.Version)
				if d.Problem != "" || d.StalenessMs > 60_000 {
					t.Errorf("%s: %v", r.Name, d)
				}
			}
			got = append(got, line)
			if r.Url == "" || r.Ready == (r.Reason != "") {
				t.Errorf("%s: url %q, ready %v, reason %q", r.Name, r.Url, r.Ready, r.Reason)
			}
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("local only %v (-want +got):\n%s", local, diff)
		}
	}
}

func TestStartRefuses(t *testing.T) {
	_, err := Start(t.Context(), Config{PrimaryURL: "nowhere", AdvertiseURL: "ftp://x", AdminListen: "y"})
	if err == nil {
		t.Fatal("an empty configuration was accepted")
	}
	for _, want := range []string{"region:", "dir:", "listen:", "admin listen:", "primary:", "advertise URL:"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q does not name %s", err, want)
		}
	}

	good := Config{Region: "r", PrimaryURL: "http://127.0.0.1:1", Listen: "127.0.0.1:0", Dir: t.TempDir(), Logger: quiet, NoAuth: true}
	open := good
	open.Listen = "0.0.0.0:0"
	if _, err := Start(t.Context(), open); !errors.Is(err, server.ErrNotLoopback) {
		t.Errorf("listening for all: %v", err)
	}
	failing := good
	failing.Mount = func(*http.ServeMux, string, ...connect.HandlerOption) error { return errors.New("no services today") }
	if _, err := Start(t.Context(), failing); err == nil || !strings.Contains(err.Error(), "no services today") {
		t.Errorf("failing mount: %v", err)
	}

	s := startSidecar(t, good)
	if _, err := Start(t.Context(), good); err == nil {
		t.Error("two sidecars share a folder")
	}
	stopSidecar(t, s)
	startSidecar(t, good) // the folder is free again
}

// A store that fails ends the role and says so.
func TestFatal(t *testing.T) {
	p := newPrimary(t)
	s := startSidecar(t, Config{PrimaryURL: p.url()})
	waitReady(t, s)
	s.fail(replica.ErrStoreFailed)
	s.fail(errors.New("a second one"))
	if err := <-s.Fatal(); !errors.Is(err, replica.ErrStoreFailed) {
		t.Error(err)
	}
	if status, body := fetch(t, httpClient(t), s.AdminURL()+"/readyz"); status != 503 || body != replica.ErrStoreFailed.Error() {
		t.Errorf("readyz: %d %q", status, body)
	}
	s.sayReady()
	if s.Ready() == nil {
		t.Error("ready again after a fatal error")
	}
}

func TestWaitReadyEnds(t *testing.T) {
	s := startSidecar(t, Config{PrimaryURL: "http://127.0.0.1:1"})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.WaitReady(ctx); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	s.fail(replica.ErrStoreFailed)
	if err := s.WaitReady(t.Context()); err == nil {
		t.Error("a failed sidecar became ready")
	}
}
