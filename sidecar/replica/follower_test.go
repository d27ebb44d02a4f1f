package replica

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"google.golang.org/protobuf/proto"

	replicationv1 "github.com/nearside-dev/nearside/gen/nearside/replication/v1"
	"github.com/nearside-dev/nearside/gen/nearside/replication/v1/replicationv1connect"
	"github.com/nearside-dev/nearside/internal/meshdb"
	"github.com/nearside-dev/nearside/sidecar/replica/replicatest"
)

// transport answers each attempt to connect as the test says.
type transport func(*http.Request) (*http.Response, error)

func (t transport) RoundTrip(req *http.Request) (*http.Response, error) { return t(req) }

// followIn runs a follower until the bubble's clock has come to a time.
func followIn(t *testing.T, d time.Duration, config FollowerConfig, answer transport) *Follower {
	t.Helper()
	s := openOn(t, vfs.NewMem(), Options{})
	config.Region = "eu"
	f := NewFollower(s, replicationv1connect.NewReplicationServiceClient(&http.Client{Transport: answer}, "http://primary"), config)
	ctx, cancel := context.WithTimeout(t.Context(), d)
	defer cancel()
	if err := f.Run(ctx); err != nil {
		t.Error(err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	return f
}

// stream answers with messages, and then with why there are no more. What the follower says is not listened to.
func stream(req *http.Request, end error, messages ...*replicationv1.SubscribeResponse) (*http.Response, error) {
	go func() { _, _ = io.Copy(io.Discard, req.Body) }()
	body, out := io.Pipe()
	go func() {
		for _, m := range messages {
			b, err := proto.Marshal(m)
			if err == nil {
				_, err = out.Write(append(binary.BigEndian.AppendUint32([]byte{0}, uint32(len(b))), b...))
			}
			if err != nil {
				return // nobody reads on
			}
		}
		_ = out.CloseWithError(end)
	}()
	return &http.Response{
		StatusCode: http.StatusOK, Proto: "HTTP/2.0", ProtoMajor: 2, Body: body,
		Header: http.Header{"Content-Type": {"application/connect+proto"}},
	}, nil
}

func welcome(version uint32) *replicationv1.SubscribeResponse {
	return &replicationv1.SubscribeResponse{Message: &replicationv1.SubscribeResponse_Welcome{Welcome: &replicationv1.Welcome{
		ProtocolVersion: version, MeshId: make([]byte, 16), BookmarkKey: []byte("key"), PrimaryRegion: "us",
	}}}
}

var errNoPrimary = errors.New("connection refused")

// TestReconnectBacksOff has no primary to connect to: the pauses grow to a limit, and no two followers would keep step.
func TestReconnectBacksOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var pauses []time.Duration
		last := time.Now()
		followIn(t, 10*time.Minute, FollowerConfig{}, func(*http.Request) (*http.Response, error) {
			pauses = append(pauses, time.Since(last))
			last = time.Now()
			return nil, errNoPrimary
		})
		// The mean pause is 400 ms: 1,500 attempts, and 800 or 3,000 are 30 standard deviations away.
		if n := len(pauses); n < 800 || n > 3000 {
			t.Fatalf("%d attempts in ten minutes", n)
		}
		different := make(map[time.Duration]bool)
		longest := time.Duration(0)
		for i, pause := range pauses[1:] {
			if limit := min(800*time.Millisecond, 100*time.Millisecond<<min(i, 16)); pause >= limit {
				t.Errorf("pause %d is %v, more than %v", i, pause, limit)
			}
			different[pause] = true
			longest = max(longest, pause)
		}
		if len(different) < len(pauses)/2 {
			t.Errorf("%d different pauses of %d: they are not drawn", len(different), len(pauses))
		}
		if longest < 700*time.Millisecond {
			t.Errorf("the longest pause was %v: they do not grow", longest)
		}
	})
}

// TestReconnectBeginsAnewAfterAWelcome has a primary that comes and goes.
func TestReconnectBeginsAnewAfterAWelcome(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		attempt, last := 0, time.Now()
		followIn(t, time.Minute, FollowerConfig{}, func(req *http.Request) (*http.Response, error) {
			pause := time.Since(last)
			last = time.Now()
			attempt++
			if attempt%10 == 1 && attempt > 1 && pause >= 100*time.Millisecond {
				t.Errorf("attempt %d came %v after a connection had ended", attempt, pause)
			}
			if attempt%10 == 0 {
				return stream(req, io.ErrUnexpectedEOF, welcome(1))
			}
			return nil, errNoPrimary
		})
		if attempt < 20 {
			t.Fatalf("%d attempts in a minute", attempt)
		}
	})
}

// TestASilentPrimaryIsGivenUp has one that welcomes and then says nothing.
func TestASilentPrimaryIsGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		redials, connects, attempts := 0, 0, 0
		followIn(t, time.Minute, FollowerConfig{
			Redial: func() { redials++ }, OnConnect: func() { connects++ },
		}, func(req *http.Request) (*http.Response, error) {
			attempts++
			body, out := io.Pipe()
			context.AfterFunc(req.Context(), func() { _ = out.CloseWithError(req.Context().Err()) })
			res, err := stream(req, nil, welcome(1))
			res.Body = struct {
				io.Reader
				io.Closer
			}{io.MultiReader(res.Body, body), body}
			return res, err
		})
		// Three seconds until one is given up, and at most 0.1 until the next: welcomed, it does not back off.
		if attempts < 19 || attempts > 21 || connects != attempts || redials < attempts-1 {
			t.Errorf("%d attempts, %d connects, %d redials in a minute", attempts, connects, redials)
		}
	})
}

// TestSnapshotsFollowEachOther has a hundred databases of which the primary has trimmed the logs: none of them waits for a tick.
func TestSnapshotsFollowEachOther(t *testing.T) {
	const databases = 100
	mesh := replicatest.NewPrimary()
	changes := []replicatest.Change{replicatest.Schema(replicatest.MeshDatabases, replicatest.MeshPlacements)}
	var messages []*replicationv1.SubscribeResponse
	for id := uint32(shop); id < shop+databases; id++ {
		changes = append(changes, replicatest.Put(replicatest.MeshDatabases, replicatest.MeshDatabase(id, fmt.Sprint("db", id))))
		messages = append(messages, &replicationv1.SubscribeResponse{Message: &replicationv1.SubscribeResponse_Refusal{
			Refusal: &replicationv1.Refusal{DatabaseId: id, Reason: replicationv1.Refusal_REASON_TRIMMED},
		}})
	}
	hello := welcome(1)
	hello.GetWelcome().Capabilities = []string{capabilitySnapshot}
	messages = append([]*replicationv1.SubscribeResponse{
		hello, {Message: &replicationv1.SubscribeResponse_Heartbeat{Heartbeat: &replicationv1.Heartbeat{
			Published: []*replicationv1.Heartbeat_Published{{DatabaseId: meshdb.DatabaseID, Epoch: 1, Version: 1}},
		}}}, {Message: &replicationv1.SubscribeResponse_Records{
			Records: &replicationv1.Records{DatabaseId: meshdb.DatabaseID, FirstVersion: 1, Records: [][]byte{mesh.Commit(changes...)}},
		}},
	}, messages...)
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		var last time.Duration // until the last one was asked for
		asked, running := make(map[string]bool), 0
		begin := time.Now()
		followIn(t, 2*time.Second, FollowerConfig{PingInterval: 100 * time.Millisecond}, func(req *http.Request) (*http.Response, error) {
			if !strings.HasSuffix(req.URL.Path, "/Snapshot") {
				body, out := io.Pipe()
				context.AfterFunc(req.Context(), func() { _ = out.CloseWithError(req.Context().Err()) })
				res, err := stream(req, nil, messages...)
				res.Body = struct {
					io.Reader
					io.Closer
				}{io.MultiReader(res.Body, body), body}
				return res, err
			}
			what, err := io.ReadAll(req.Body)
			if err != nil {
				return nil, err
			}
			mu.Lock()
			if !asked[string(what)] {
				asked[string(what)], last = true, time.Since(begin)
			}
			if running++; running > maxFetches {
				t.Errorf("%d snapshots at a time", running)
			}
			mu.Unlock()
			time.Sleep(time.Millisecond)
			mu.Lock()
			running--
			mu.Unlock()
			return nil, errNoPrimary // it comes to nothing, and is tried again after a pause
		})
		if len(asked) != databases || last > 200*time.Millisecond {
			t.Errorf("%d of %d snapshots were asked for, the last one after %v", len(asked), databases, last)
		}
	})
}

// TestAPrimaryOfANewerProtocolIsNotFollowed has one that did not take the version it was offered.
func TestAPrimaryOfANewerProtocolIsNotFollowed(t *testing.T) {
	for _, version := range []uint32{0, protocolVersion + 1} {
		synctest.Test(t, func(t *testing.T) {
			connects := 0
			f := followIn(t, 10*time.Second, FollowerConfig{OnConnect: func() { connects++ }},
				func(req *http.Request) (*http.Response, error) {
					return stream(req, io.ErrUnexpectedEOF, welcome(version))
				})
			if _, ok := f.store.Identity(); ok || connects > 0 {
				t.Errorf("protocol %d: %d connects, identity %v", version, connects, ok)
			}
		})
	}
}
