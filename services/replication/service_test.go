package replication

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/prometheus/client_golang/prometheus"

	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	replicationv1 "github.com/nearside-dev/nearside/gen/nearside/replication/v1"
	"github.com/nearside-dev/nearside/internal/meshdb"
	"github.com/nearside-dev/nearside/internal/rpcerr"
	"github.com/nearside-dev/nearside/services/data/changelog"
)

func TestFollowSendsAllThenWhatIsNew(t *testing.T) {
	log := openLog(t)
	_, client := serve(t, log, Config{})
	w := &writer{t: t, log: log, id: 100}
	w.append(5, 0)
	w.publish()
	p, c := subscribe(t, client), newCopies(t)
	p.follow(&replicationv1.Follow{DatabaseId: 100})
	c.until(p, 100, 5)
	w.append(3, 0) // appended, but not published yet
	p.ping(1)
	for c.listed[100] != 5 {
		c.take(p.receive())
	}
	if c.have[100].Version != 5 {
		t.Fatalf("got version %d before it was published", c.have[100].Version)
	}
	w.publish()
	c.until(p, 100, 8)
	p.ping(2)
	h := p.receive().GetHeartbeat()
	if len(h.GetPublished()) != 1 || h.GetPublished()[0].GetVersion() != 8 || h.GetPublished()[0].GetEpoch() != 1 {
		t.Errorf("heartbeat after the news: %v", h)
	}
	p.ping(3)
	if h := p.receive().GetHeartbeat(); h == nil || len(h.GetPublished()) != 0 || h.GetEchoedNanos() != 3 {
		t.Errorf("heartbeat without news: %v", h)
	}
	p.send(&replicationv1.SubscribeRequest{Message: &replicationv1.SubscribeRequest_Unfollow{
		Unfollow: &replicationv1.Unfollow{DatabaseId: 100},
	}})
	p.ping(4) // what comes after it is of a stream that has done the unfollow
	if h := p.receive().GetHeartbeat(); h.GetEchoedNanos() != 4 {
		t.Errorf("answer %v", h)
	}
	w.append(1, 0)
	w.publish()
	p.ping(5)
	if h := p.receive().GetHeartbeat(); h == nil || len(h.GetPublished()) != 0 {
		t.Errorf("after unfollowing: %v", h)
	}
}

func TestFollowResumes(t *testing.T) {
	log := openLog(t)
	_, client := serve(t, log, Config{})
	w := &writer{t: t, log: log, id: 100}
	w.append(4, 0)
	at := w.head
	w.append(4, 0)
	w.publish()
	p, c := subscribe(t, client), newCopies(t)
	c.have[100] = at
	p.follow(&replicationv1.Follow{DatabaseId: 100, Epoch: 1, Version: at.Version, Checksum: at.Checksum[:]})
	c.until(p, 100, 8)
}

func TestRefusals(t *testing.T) {
	log := openLog(t)
	_, client := serve(t, log, Config{Exists: func(id uint32) bool { return id != 404 }})
	w := &writer{t: t, log: log, id: 100}
	w.append(3, 0)
	at := w.head
	w.append(2, 0)
	w.publish()
	trimmed := &writer{t: t, log: log, id: 101, head: changelog.Head{Epoch: 1, Version: 7}}
	trimmed.append(1, 0)
	trimmed.publish()
	for _, test := range []struct {
		name   string
		follow *replicationv1.Follow
		want   replicationv1.Refusal_Reason
	}{
		{"deleted", &replicationv1.Follow{DatabaseId: 404}, replicationv1.Refusal_REASON_NOT_FOUND},
		{"not served", &replicationv1.Follow{DatabaseId: 503}, replicationv1.Refusal_REASON_UNAVAILABLE},
		{"other checksum", &replicationv1.Follow{DatabaseId: 100, Epoch: 1, Version: 3, Checksum: make([]byte, 16)},
			replicationv1.Refusal_REASON_FORK},
		{"no checksum", &replicationv1.Follow{DatabaseId: 100, Epoch: 1, Version: 3}, replicationv1.Refusal_REASON_FORK},
		{"other epoch", &replicationv1.Follow{DatabaseId: 100, Epoch: 2, Version: 3, Checksum: at.Checksum[:]},
			replicationv1.Refusal_REASON_FORK},
		{"ahead", &replicationv1.Follow{DatabaseId: 100, Epoch: 1, Version: 6, Checksum: at.Checksum[:]},
			replicationv1.Refusal_REASON_FOLLOWER_AHEAD},
		{"trimmed", &replicationv1.Follow{DatabaseId: 101, Epoch: 1, Version: 5, Checksum: at.Checksum[:]},
			replicationv1.Refusal_REASON_TRIMMED},
		{"trimmed from the first", &replicationv1.Follow{DatabaseId: 101}, replicationv1.Refusal_REASON_TRIMMED},
	} {
		t.Run(test.name, func(t *testing.T) {
			p := subscribe(t, client)
			p.follow(test.follow)
			r := p.receive().GetRefusal()
			if r.GetReason() != test.want || r.GetDatabaseId() != test.follow.GetDatabaseId() || r.GetMessage() == "" {
				t.Errorf("got %v, want %v", r, test.want)
			}
			p.ping(1) // the stream goes on
			if h := p.receive().GetHeartbeat(); h == nil || len(h.GetPublished()) != 0 {
				t.Errorf("heartbeat %v", h)
			}
		})
	}
}

// receiving counts the calls of a stream's Receive: when one begins, what the ones before it returned has been taken in.
type receiving struct {
	connect.Interceptor

	begun func()
}

func (r receiving) WrapStreamingHandler(next connect.StreamingHandlerFunc) connect.StreamingHandlerFunc {
	return func(ctx context.Context, conn connect.StreamingHandlerConn) error {
		return next(ctx, receivingConn{conn, r.begun})
	}
}

type receivingConn struct {
	connect.StreamingHandlerConn

	begun func()
}

func (c receivingConn) Receive(msg any) error {
	c.begun()
	return c.StreamingHandlerConn.Receive(msg)
}

// After a restart of its primary a sidecar asks for all its databases at once. To look at each place in the log takes time, and a
// stream over which nothing comes meanwhile is given up, and all begins anew.
func TestPingIsAnsweredBeforeAllIsFollowed(t *testing.T) {
	const databases = 50
	log := openLog(t)
	for id := range uint32(databases) {
		w := &writer{t: t, log: log, id: 100 + id}
		w.append(2, 0)
		w.publish()
	}
	var calls atomic.Int64
	received := make(chan struct{})
	_, client := serve(t, log, Config{OnHello: func(context.Context, string, string) error {
		<-received
		return nil
	}}, receiving{connect.UnaryInterceptorFunc(nil), func() {
		if calls.Add(1) == 1+1+databases+1 { // hello, follows, ping, and the call after them
			close(received)
		}
	}})
	p, c := dial(t, client, &replicationv1.Hello{Region: "eu-west-1", ProtocolVersion: 1}), newCopies(t)
	for id := range uint32(databases) {
		p.follow(&replicationv1.Follow{DatabaseId: 100 + id})
	}
	p.ping(1)
	if p.receive().GetWelcome() == nil {
		t.Fatal("no welcome")
	}
	if h := p.receive().GetHeartbeat(); h.GetEchoedNanos() != 1 || len(h.GetPublished()) > followsAtOnce {
		t.Fatalf("first came %v", h)
	}
	for id := range uint32(databases) {
		c.until(p, 100+id, 2)
	}
	p.ping(2)
	c.take(p.receive())
	if len(c.listed) != databases {
		t.Errorf("%d databases listed", len(c.listed))
	}
}

func TestDatabaseThatGoesAndComesBack(t *testing.T) {
	log := openLog(t)
	_, client := serve(t, log, Config{})
	w := &writer{t: t, log: log, id: 100}
	w.append(2, 0)
	w.publish()
	p, c := subscribe(t, client), newCopies(t)
	p.follow(&replicationv1.Follow{DatabaseId: 100})
	c.until(p, 100, 2)
	log.Unpublish(100)
	if r := p.receive().GetRefusal(); r.GetReason() != replicationv1.Refusal_REASON_UNAVAILABLE {
		t.Fatalf("got %v", r)
	}
	w.append(1, 0)
	w.publish()
	at := c.have[100]
	p.follow(&replicationv1.Follow{DatabaseId: 100, Epoch: 1, Version: at.Version, Checksum: at.Checksum[:]})
	c.until(p, 100, 3)
}

// TestRecordsComeAfterTheMeshTheyNeed commits to _mesh and to databases that need its newest version, while it is read.
func TestRecordsComeAfterTheMeshTheyNeed(t *testing.T) {
	log := openLog(t)
	_, client := serve(t, log, Config{})
	mesh := &writer{t: t, log: log, id: meshdb.DatabaseID}
	mesh.append(1, 0)
	mesh.publish()
	dbs := []*writer{{t: t, log: log, id: 100}, {t: t, log: log, id: 101}, {t: t, log: log, id: 102}}
	for _, db := range dbs {
		db.publish()
	}
	p, c := subscribe(t, client), newCopies(t)
	p.follow(&replicationv1.Follow{DatabaseId: meshdb.DatabaseID})
	for _, db := range dbs {
		p.follow(&replicationv1.Follow{DatabaseId: db.id})
	}
	const rounds = 400
	done := make(chan struct{})
	go func() {
		defer close(done)
		for i := range rounds {
			mesh.append(1, 0)
			mesh.publish()
			db := dbs[i%len(dbs)]
			db.append(1, mesh.head.Version)
			db.publish()
		}
	}()
	for i := int64(0); c.have[meshdb.DatabaseID].Version < rounds+1 || c.have[100].Version < rounds/3+1; i++ {
		if i%20 == 0 {
			p.ping(i)
		}
		c.take(p.receive())
	}
	<-done
	for _, db := range dbs {
		c.until(p, db.id, db.head.Version)
	}
}

func TestGroupsAreBounded(t *testing.T) {
	log := openLog(t)
	_, client := serve(t, log, Config{})
	small, large := &writer{t: t, log: log, id: 100}, &writer{t: t, log: log, id: 101, size: 3 << 20}
	small.append(5000, 0)
	small.publish()
	large.append(3, 0)
	large.publish()
	p, c := subscribe(t, client), newCopies(t)
	p.follow(&replicationv1.Follow{DatabaseId: 100})
	c.until(p, 100, 5000)
	if c.largest > maxGroupRecords {
		t.Errorf("%d records in a group", c.largest)
	}
	c.largest = 0
	p.follow(&replicationv1.Follow{DatabaseId: 101})
	c.until(p, 101, 3)
	if c.largest != 1 {
		t.Errorf("%d records of 3 MiB in a group", c.largest)
	}
}

// TestSlowSubscriber has one that does not read: commits and another subscriber go on, and it gets everything later.
func TestSlowSubscriber(t *testing.T) {
	log := openLog(t)
	registry := prometheus.NewRegistry()
	_, client := serve(t, log, Config{Registerer: registry})
	w := &writer{t: t, log: log, id: 100, size: 100 << 10}
	w.publish()
	slow, quick := subscribe(t, client), subscribe(t, client)
	slow.follow(&replicationv1.Follow{DatabaseId: 100})
	quick.follow(&replicationv1.Follow{DatabaseId: 100})
	c := newCopies(t)
	for range 300 { // far more than all buffers on the way hold
		w.append(1, 0)
		w.publish()
		c.until(quick, 100, w.head.Version)
	}
	for i := range int64(100) {
		slow.ping(i) // nor do its own messages pile up
	}
	for total(t, registry, "nearside_replication_sending_bytes") == 0 { // to the slow one, which takes nothing more
		if t.Context().Err() != nil {
			t.Fatal("nothing is being sent to a subscriber that does not read")
		}
	}
	if n := total(t, registry, "nearside_replication_sending_bytes"); n > maxGroupBytes {
		t.Errorf("%v bytes are kept for a subscriber that does not read", n)
	}
	if n := total(t, registry, "nearside_replication_streams"); n != 2 {
		t.Errorf("%v streams", n)
	}
	late := newCopies(t)
	late.until(slow, 100, 300)
	slow.ping(101) // when it is answered, all was counted
	for {
		if h := slow.receive().GetHeartbeat(); h.GetEchoedNanos() == 101 {
			break
		}
	}
	for name, want := range map[string]float64{
		"sending_bytes": 0, "queued_databases": 0, "records_total": 600, "resumes_total": 0, "refusals_total": 0,
	} {
		if got := total(t, registry, "nearside_replication_"+name); got != want {
			t.Errorf("%s is %v, want %v", name, got, want)
		}
	}
}

// TestASubscriberThatFallsTooFarBehindIsDropped has two that were away; the log was trimmed beyond one of them.
func TestASubscriberThatFallsTooFarBehindIsDropped(t *testing.T) {
	log := openLog(t)
	registry := prometheus.NewRegistry()
	_, client := serve(t, log, Config{Registerer: registry})
	w := &writer{t: t, log: log, id: 100}
	at := func() *replicationv1.Follow {
		head := w.head
		return &replicationv1.Follow{DatabaseId: 100, Epoch: 1, Version: head.Version, Checksum: head.Checksum[:]}
	}
	w.append(2, 0)
	longAway := at()
	w.append(6, 0)
	away := at()
	w.append(2, 0)
	w.publish()
	if _, err := log.Trim(100, 7, changelog.Retention{Age: time.Nanosecond, Bytes: 1 << 40}); err != nil {
		t.Fatal(err)
	}
	p := subscribe(t, client)
	p.follow(longAway)
	if r := p.receive().GetRefusal(); r.GetReason() != replicationv1.Refusal_REASON_TRIMMED {
		t.Fatalf("a copy from before the trim: %v", r)
	}
	p.follow(away)
	if r := p.receive().GetRecords(); r.GetFirstVersion() != 9 {
		t.Fatalf("a copy that the log goes on from: %v", r)
	}
	for name, want := range map[string]float64{"refusals_total": 1, "resumes_total": 1} {
		if got := total(t, registry, "nearside_replication_"+name); got != want {
			t.Errorf("%s is %v, want %v", name, got, want)
		}
	}
}

func TestLimits(t *testing.T) {
	log := openLog(t)
	service, client := serve(t, log, Config{MaxStreams: 2, MaxDatabases: 3})
	first := subscribe(t, client)
	second := subscribe(t, client)
	third := dial(t, client, &replicationv1.Hello{Region: "x", ProtocolVersion: 1})
	if _, err := third.stream.Receive(); rpcerr.ReasonOf(err) != datav1.ErrorReason_ERROR_REASON_OVERLOADED {
		t.Errorf("a stream too many: %v", err)
	}
	for id := range uint32(3) {
		first.follow(&replicationv1.Follow{DatabaseId: 100 + id})
		if r := first.receive().GetRefusal(); r == nil {
			t.Fatal("followed a database that is not there")
		}
	}
	for id := range uint32(3) {
		(&writer{t: t, log: log, id: 200 + id}).publish()
		first.follow(&replicationv1.Follow{DatabaseId: 200 + id}) // the refused ones do not count
	}
	first.ping(1)
	if h := first.receive().GetHeartbeat(); len(h.GetPublished()) != 3 {
		t.Fatalf("heartbeat %v", h)
	}
	first.follow(&replicationv1.Follow{DatabaseId: 203})
	if _, err := first.stream.Receive(); rpcerr.ReasonOf(err) != datav1.ErrorReason_ERROR_REASON_OVERLOADED {
		t.Errorf("a database too many: %v", err)
	}
	service.Close()
	if _, err := second.stream.Receive(); connect.CodeOf(err) != connect.CodeUnavailable {
		t.Errorf("stream of a closed service: %v", err)
	}
	late := dial(t, client, &replicationv1.Hello{Region: "x", ProtocolVersion: 1})
	if _, err := late.stream.Receive(); connect.CodeOf(err) != connect.CodeUnavailable {
		t.Errorf("stream to a closed service: %v", err)
	}
}

// TestCloseEndsBlockedStreams closes while a stream waits for a subscriber to read.
func TestCloseEndsBlockedStreams(t *testing.T) {
	log := openLog(t)
	service, client := serve(t, log, Config{})
	w := &writer{t: t, log: log, id: 100, size: 1 << 20}
	w.append(40, 0)
	w.publish()
	p := subscribe(t, client)
	p.follow(&replicationv1.Follow{DatabaseId: 100})
	p.receive() // it has begun, and nobody reads on
	service.Close()
}

func TestHello(t *testing.T) {
	log := openLog(t)
	var heard []string
	_, client := serve(t, log, Config{OnHello: func(_ context.Context, region, url string) error {
		heard = append(heard, region+" "+url)
		if region == "refused" {
			return errors.New("no such region")
		}
		return nil
	}})
	for _, test := range []struct {
		hello *replicationv1.Hello
		want  connect.Code
	}{
		{&replicationv1.Hello{ProtocolVersion: 1}, connect.CodeInvalidArgument},
		{&replicationv1.Hello{Region: strings.Repeat("x", 64), ProtocolVersion: 1}, connect.CodeInvalidArgument},
		{&replicationv1.Hello{Region: "x", Url: strings.Repeat("x", 2049), ProtocolVersion: 1}, connect.CodeInvalidArgument},
		{&replicationv1.Hello{Region: "x"}, connect.CodeInvalidArgument},
		{&replicationv1.Hello{Region: "refused", ProtocolVersion: 1}, connect.CodeInternal},
	} {
		p := dial(t, client, test.hello)
		if _, err := p.stream.Receive(); connect.CodeOf(err) != test.want {
			t.Errorf("%v: %v, want %v", test.hello, err, test.want)
		}
	}
	subscribe(t, client)
	if got := fmt.Sprint(heard); got != "[refused  eu-west-1 http://eu]" {
		t.Errorf("OnHello was told %s", got)
	}
}
