package replication

import (
	"sync"

	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	replicationv1 "github.com/nearside-dev/nearside/gen/nearside/replication/v1"
	"github.com/nearside-dev/nearside/internal/rpcerr"
)

// inbox is what a subscriber has said that its stream has not done yet. It keeps the newest word for each database and the
// newest ping, so it is bounded and its writer never waits for the sender: two peers that both wait to be read would wait for
// ever.
type inbox struct {
	maxDatabases int

	wakeup chan struct{} // capacity 1

	mu      sync.Mutex
	hello   *replicationv1.Hello
	wishes  map[uint32]*replicationv1.Follow // nil is Unfollow
	follows map[uint32]struct{}              // what will be followed when all wishes are done
	ping    *replicationv1.Ping
	err     error // why there is no more to come
}

func newInbox(maxDatabases int) *inbox {
	return &inbox{
		maxDatabases: maxDatabases, wakeup: make(chan struct{}, 1),
		wishes: make(map[uint32]*replicationv1.Follow), follows: make(map[uint32]struct{}),
	}
}

func (in *inbox) wake() {
	select {
	case in.wakeup <- struct{}{}:
	default:
	}
}

// put takes in a message. Unknown ones are ignored.
func (in *inbox) put(msg *replicationv1.SubscribeRequest) error {
	in.mu.Lock()
	defer in.mu.Unlock()
	defer in.wake()
	switch m := msg.GetMessage().(type) {
	case *replicationv1.SubscribeRequest_Hello:
		if in.hello == nil {
			in.hello = m.Hello
		}
	case *replicationv1.SubscribeRequest_Follow:
		id := m.Follow.GetDatabaseId()
		in.follows[id] = struct{}{}
		if len(in.follows) > in.maxDatabases {
			return rpcerr.New(datav1.ErrorReason_ERROR_REASON_OVERLOADED,
				"more than %d databases on one stream", in.maxDatabases)
		}
		in.wishes[id] = m.Follow
	case *replicationv1.SubscribeRequest_Unfollow:
		id := m.Unfollow.GetDatabaseId()
		if _, ok := in.follows[id]; ok {
			delete(in.follows, id)
			in.wishes[id] = nil
		}
	case *replicationv1.SubscribeRequest_Ping:
		in.ping = m.Ping
	}
	return nil
}

// forget notes that a database is not followed any more, so that it does not count.
func (in *inbox) forget(id uint32) {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.wishes[id] == nil {
		delete(in.follows, id)
	}
}

// end says why nothing more comes.
func (in *inbox) end(err error) {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.err = err
	in.wake()
}

func (in *inbox) takeHello() (*replicationv1.Hello, error) {
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.hello, in.err
}

// take returns what there is and forgets it.
func (in *inbox) take() (wishes map[uint32]*replicationv1.Follow, ping *replicationv1.Ping, err error) {
	in.mu.Lock()
	defer in.mu.Unlock()
	if len(in.wishes) > 0 {
		wishes, in.wishes = in.wishes, make(map[uint32]*replicationv1.Follow)
	}
	ping, in.ping = in.ping, nil
	return wishes, ping, in.err
}
