package replica

import (
	"context"
	"encoding/binary"
	"io"
	"net/http"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"google.golang.org/protobuf/proto"

	replicationv1 "github.com/nearside-dev/nearside/gen/nearside/replication/v1"
	"github.com/nearside-dev/nearside/gen/nearside/replication/v1/replicationv1connect"
	"github.com/nearside-dev/nearside/internal/meshdb"
)

// answering is a primary with an empty _mesh that answers each ping at once and tells pinged of it.
func answering(t *testing.T, pinged func()) transport {
	return func(req *http.Request) (*http.Response, error) {
		body, out := io.Pipe()
		context.AfterFunc(req.Context(), func() { _ = out.CloseWithError(req.Context().Err()) })
		send := func(m *replicationv1.SubscribeResponse) {
			b, err := proto.Marshal(m)
			if err != nil {
				t.Error(err)
			}
			_, _ = out.Write(append(binary.BigEndian.AppendUint32([]byte{0}, uint32(len(b))), b...)) // nobody may read on
		}
		go func() {
			for first := true; ; {
				head := make([]byte, 5)
				if _, err := io.ReadFull(req.Body, head); err != nil {
					return
				}
				message := make([]byte, binary.BigEndian.Uint32(head[1:]))
				var m replicationv1.SubscribeRequest
				if _, err := io.ReadFull(req.Body, message); err != nil || proto.Unmarshal(message, &m) != nil {
					return
				}
				if m.GetHello() != nil {
					go send(welcome(1)) // it does not listen before it has said all
				}
				if m.GetPing() == nil {
					continue
				}
				pinged()
				h := &replicationv1.Heartbeat{EchoedNanos: m.GetPing().GetSentNanos()}
				if first {
					h.Published, first = []*replicationv1.Heartbeat_Published{{DatabaseId: meshdb.DatabaseID}}, false
				}
				go send(&replicationv1.SubscribeResponse{Message: &replicationv1.SubscribeResponse_Heartbeat{Heartbeat: h}})
			}
		}()
		return &http.Response{
			StatusCode: http.StatusOK, Proto: "HTTP/2.0", ProtoMajor: 2, Body: body,
			Header: http.Header{"Content-Type": {"application/connect+proto"}},
		}, nil
	}
}

func TestPingsAreRareWhileNobodyAsks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var pings atomic.Int64
		s := openOn(t, vfs.NewMem(), Options{})
		f := NewFollower(s, replicationv1connect.NewReplicationServiceClient(
			&http.Client{Transport: answering(t, func() { pings.Add(1) })}, "http://primary"), FollowerConfig{Region: "eu"})
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- f.Run(ctx) }()
		during := func(d time.Duration) int64 {
			before := pings.Load()
			time.Sleep(d)
			synctest.Wait()
			return pings.Load() - before
		}
		if n := during(1950 * time.Millisecond); n < 19 || n > 21 {
			t.Errorf("%d pings in the first two seconds", n)
		}
		time.Sleep(time.Second)
		if n := during(10 * time.Second); n != 40 {
			t.Errorf("%d pings in ten idle seconds", n)
		}
		d, ok := s.Database(meshdb.DatabaseID)
		if !ok || !d.Live() {
			t.Fatal("the copy is not live")
		}
		time.Sleep(60 * time.Millisecond) // between two pings
		if age := d.Staleness(time.Now()); age > 250*time.Millisecond {
			t.Errorf("an idle copy is %v old", age)
		}
		if n := during(0); n != 1 {
			t.Errorf("%d pings when somebody asked", n)
		}
		if age := d.Staleness(time.Now()); age != 0 {
			t.Errorf("after it the copy is %v old", age)
		}
		for range 50 { // seven seconds, and somebody asks now and then
			if n := during(140 * time.Millisecond); n < 1 || n > 2 {
				t.Errorf("%d pings in 140 ms", n)
			}
			if age := d.Staleness(time.Now()); age > 100*time.Millisecond {
				t.Errorf("a copy that is asked for is %v old", age)
			}
		}
		time.Sleep(3 * time.Second)
		if n := during(10 * time.Second); n != 40 {
			t.Errorf("%d pings in ten idle seconds", n)
		}
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
}

func TestNoQuestionIsLostBeforeARest(t *testing.T) {
	a := activity{stir: make(chan struct{}, 1)}
	a.note()
	if a.rest() {
		t.Error("rests though somebody asked")
	}
	if !a.looked() || a.looked() {
		t.Error("what was asked counts once")
	}
	if !a.rest() || len(a.stir) != 0 {
		t.Error("does not rest")
	}
	a.note()
	a.note()
	if len(a.stir) != 1 || !a.looked() {
		t.Error("a question while it rests stirs nothing")
	}
}
