package load

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"connectrpc.com/connect"
	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	"google.golang.org/protobuf/testing/protocmp"

	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/gen/nearside/data/v1/datav1connect"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestPaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tasks := make([]Task, 8)
		for i := range tasks {
			tasks[i] = func() (time.Duration, error) {
				time.Sleep(time.Millisecond) // of the bubble
				return time.Duration(i) - 1, nil
			}
		}
		r, err := Paced(t.Context(), 2*time.Second, 1000, tasks)
		if err != nil {
			t.Fatal(err)
		}
		if r.Requests != 2000 || r.Latency.Count() != 1750 {
			t.Errorf("%d requests, %d recorded; want 2000 and 1750", r.Requests, r.Latency.Count())
		}
		if r.Elapsed != 2*time.Second {
			t.Errorf("took %v", r.Elapsed)
		}
	})
}

func TestClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		task := func() (time.Duration, error) {
			time.Sleep(10 * time.Millisecond) // of the bubble
			return 10 * time.Millisecond, nil
		}
		r, err := Closed(t.Context(), time.Second, []Task{task, task, task})
		if err != nil {
			t.Fatal(err)
		}
		if r.Requests != 300 || r.Rate() != 300 {
			t.Errorf("%d requests at %v/s, want 300", r.Requests, r.Rate())
		}
	})
}

func TestFirstErrorEndsRun(t *testing.T) {
	bad := errors.New("bad")
	_, err := Closed(t.Context(), time.Hour, []Task{
		func() (time.Duration, error) { return 0, bad },
		func() (time.Duration, error) { return 0, nil },
	})
	if !errors.Is(err, bad) {
		t.Errorf("got %v", err)
	}
}

func TestClient(t *testing.T) {
	mux := http.NewServeMux()
	mux.Handle(datav1connect.NewDataServiceHandler(datav1connect.UnimplementedDataServiceHandler{}))
	want := &datav1.GetResponse{Row: &datav1.Row{Version: 7}}
	large := &datav1.GetResponse{Columns: []*datav1.Column{{Name: strings.Repeat("x", 100_000)}}}
	for path, res := range map[string]*datav1.GetResponse{"/want": want, "/large": large} {
		mux.Handle(path, connect.NewUnaryHandlerSimple(path,
			func(_ context.Context, _ *datav1.GetRequest) (*datav1.GetResponse, error) { return res, nil }))
	}
	server := httptest.NewServer(mux)
	defer server.Close()
	c, err := Dial(t.Context(), server.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	req := &datav1.GetRequest{Database: "d", Table: "t"}
	for path, want := range map[string]*datav1.GetResponse{"/want": want, "/large": large} {
		var got datav1.GetResponse
		if err := c.Call(path, req, &got); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, &got, protocmp.Transform()); diff != "" {
			t.Error(diff)
		}
		if err := c.Call(path, req, nil); err != nil {
			t.Error(err)
		}
	}
	if err := c.Call(datav1connect.DataServiceGetProcedure, req, nil); err == nil || !strings.Contains(err.Error(), "unimplemented") {
		t.Errorf("got %v", err)
	}
}
