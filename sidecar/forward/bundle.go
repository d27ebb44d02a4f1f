package forward

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net/http/httptrace"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"connectrpc.com/connect"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/protobuf/proto"

	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	replicationv1 "github.com/nearside-dev/nearside/gen/nearside/replication/v1"
	"github.com/nearside-dev/nearside/gen/nearside/replication/v1/replicationv1connect"
	"github.com/nearside-dev/nearside/internal/gather"
	"github.com/nearside-dev/nearside/internal/identity"
	"github.com/nearside-dev/nearside/internal/requestid"
)

// Limits of bundles.
const (
	maxBundleCalls      = 128
	maxBundledBytes     = 16 << 10 // of one call
	maxBundledOperation = 16       // operations of one call
	maxBundlesInFlight  = 2        // of one database

	maxAuthorizationBytes = 8192
)

// bundles sends short transactions that callers make at the same time together: those that come while earlier ones are on their
// way to the primary go with the next bundle. So the busier the region is the less each costs, and on an idle one none waits.
// Bundles are of one database, whose writer at the primary takes one transaction after the other anyway: none waits for another
// database's.
//
// A bundle is an attempt of each of its calls. What goes wrong with it goes wrong with all, and they go on alone, under their
// own keys.
type bundles struct {
	client replicationv1connect.BundleServiceClient
	off    atomic.Bool // the primary does not know bundles
	sizes  prometheus.Histogram

	mu        sync.Mutex
	databases map[string]*queue // those with a bundle on its way
}

// newBundles returns the bundles of a Primary. The error is a metric's that the registerer has already.
func newBundles(o Options) (*bundles, error) {
	b := &bundles{
		client: replicationv1connect.NewBundleServiceClient(o.HTTPClient, o.URL, connect.WithAcceptCompression("gzip", nil, nil)),
		sizes: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "nearside_forward_bundle_size", Help: "Transactions sent to the primary together.",
			Buckets: prometheus.ExponentialBuckets(1, 2, 8),
		}),
		databases: make(map[string]*queue),
	}
	if o.Registerer == nil {
		return b, nil
	}
	if err := o.Registerer.Register(b.sizes); err != nil {
		return nil, fmt.Errorf("register metrics of bundles: %w", err)
	}
	return b, nil
}

// queue is a database's calls that wait for the next bundle. Its length is bounded by that of the calls in flight.
type queue struct {
	sending int
	fresh   bool // one of those who send has not taken any calls yet: it takes what comes until then
	waiting []*bundled
}

// bundled is a call of a bundle.
type bundled struct {
	ctx  context.Context //nolint:containedctx // a call is one call
	call *replicationv1.TransactBundleRequest_Call
	gone atomic.Bool   // swapped to true by whoever is first: the sender takes the call, or its caller gives up
	done chan struct{} // closed when what follows is set

	outcome *replicationv1.TransactBundleResponse_Outcome
	err     error
}

// errAlone means that a call has to be made alone.
var errAlone = errors.New("not in a bundle")

// bundleable reports whether a transaction is short, and needs no headers but its key, its name, its trace and its credential.
// size is the message's in bytes.
func bundleable(c *call, msg *datav1.TransactRequest, size int) bool {
	if len(msg.GetOperations()) > maxBundledOperation || size > maxBundledBytes {
		return false
	}
	for _, o := range msg.GetOperations() {
		if o.GetStatement() != nil {
			return false // SQL may take long
		}
	}
	for name, values := range c.header {
		switch name {
		case canonicalKey, requestid.ParentHeader, requestid.Header:
			if len(values) > 1 {
				return false
			}
		case canonicalAuthorization:
			if len(values) > 1 || len(values[0]) > maxAuthorizationBytes {
				return false
			}
		case canonicalBookmark: // says nothing to a write
		default:
			return false
		}
	}
	return len(c.header[canonicalKey]) == 0 || len(c.header[canonicalKey][0]) <= 255
}

// transact makes one attempt of a call, with others. The error is errAlone where it has to be made alone, and then nothing was
// sent or nothing was done. encoded is msg, if the caller has it.
func (b *bundles) transact(
	ctx context.Context, c *call, msg *datav1.TransactRequest, encoded []byte,
) (*datav1.TransactResponse, error) {
	if b.off.Load() {
		return nil, errAlone
	}
	if encoded == nil {
		var err error
		if encoded, err = proto.Marshal(msg); err != nil {
			return nil, errAlone
		}
	}
	item := &bundled{ctx: ctx, done: make(chan struct{}), call: &replicationv1.TransactBundleRequest_Call{
		Request: encoded, IdempotencyKey: c.first(canonicalKey), TraceParent: c.first(requestid.ParentHeader),
		Authorization: c.first(canonicalAuthorization), RequestId: c.first(requestid.Header),
		CallerAddress: identity.AddressOf(ctx).AsSlice(),
	}}
	b.add(msg.GetDatabase(), item)
	select {
	case <-item.done:
	case <-ctx.Done():
		if item.gone.Swap(true) {
			item.wrote() // or is about to be
		}
		return nil, ctx.Err()
	}
	if item.err != nil {
		return nil, item.err
	}
	return item.response()
}

// add queues a call, and begins a bundle unless enough are on their way.
func (b *bundles) add(database string, item *bundled) {
	b.mu.Lock()
	defer b.mu.Unlock()
	q := b.databases[database]
	if q == nil {
		q = &queue{}
		b.databases[database] = q
	}
	q.waiting = append(q.waiting, item)
	if q.sending < maxBundlesInFlight && !q.fresh {
		q.sending++
		q.fresh = true
		go b.run(database, q)
	}
}

// run sends what waits as a bundle, and then what has come meanwhile, until nothing has.
func (b *bundles) run(database string, q *queue) {
	for last := 0; ; {
		gather.Ready(last, maxBundleCalls, func() int {
			b.mu.Lock()
			defer b.mu.Unlock()
			return len(q.waiting)
		})
		items := b.next(database, q)
		if len(items) == 0 {
			return
		}
		b.send(items)
		last = len(items)
	}
}

// next returns the calls of the next bundle; none ends the bundles of one sender.
func (b *bundles) next(database string, q *queue) []*bundled {
	b.mu.Lock()
	defer b.mu.Unlock()
	q.fresh = false
	n := min(len(q.waiting), maxBundleCalls)
	items := slices.Clone(q.waiting[:n])
	q.waiting = slices.Delete(q.waiting, 0, n)
	if n == 0 {
		if q.sending--; q.sending == 0 {
			delete(b.databases, database)
		}
	}
	return items
}

// wrote notes that a call may have reached the primary.
func (i *bundled) wrote() {
	if wrote, ok := i.ctx.Value(wroteKey{}).(*atomic.Bool); ok {
		wrote.Store(true)
	}
}

// timeout is what is left of the call's time, in milliseconds, at least one.
func (i *bundled) timeout() uint32 {
	deadline, ok := i.ctx.Deadline()
	if !ok {
		return uint32(DefaultTimeout.Milliseconds())
	}
	return uint32(min(max(time.Until(deadline).Milliseconds(), 1), math.MaxInt32))
}

// send sends a bundle and tells its calls what became of them. It returns early when nobody waits any more.
func (b *bundles) send(items []*bundled) {
	items = slices.DeleteFunc(items, func(i *bundled) bool { return i.gone.Swap(true) })
	if len(items) == 0 {
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var waiting atomic.Int64
	waiting.Store(int64(len(items)))
	req := &replicationv1.TransactBundleRequest{Calls: make([]*replicationv1.TransactBundleRequest_Call, len(items))}
	for i, item := range items {
		item.call.TimeoutMs = item.timeout()
		req.Calls[i] = item.call
		stop := context.AfterFunc(item.ctx, func() {
			if waiting.Add(-1) == 0 {
				cancel()
			}
		})
		defer stop()
	}
	b.sizes.Observe(float64(len(items)))
	res, err := b.client.TransactBundle(httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{WroteHeaders: func() {
		for _, item := range items {
			item.wrote()
		}
	}}), connect.NewRequest(req))
	switch {
	case err != nil && connect.IsWireError(err) && connect.CodeOf(err) == connect.CodeUnimplemented:
		b.off.Store(true)
		err = errAlone
	case err != nil && connect.IsWireError(err) && connect.CodeOf(err) != connect.CodeUnavailable:
		err = errAlone // that is about the bundle, and none of its calls'
	case err == nil && len(res.Msg.GetOutcomes()) != len(items):
		err = errAlone
	}
	for i, item := range items {
		if item.err = err; err == nil {
			item.outcome = res.Msg.GetOutcomes()[i]
		}
		close(item.done)
	}
}

// response returns what the call would have been answered alone.
func (i *bundled) response() (*datav1.TransactResponse, error) {
	o := i.outcome
	switch {
	case o.GetError() != nil:
		wire := connect.NewWireError(connect.Code(o.GetError().GetCode()), errors.New(o.GetError().GetMessage()))
		for _, d := range o.GetError().GetDetails() {
			if detail, err := connect.NewErrorDetail(d); err == nil {
				wire.AddDetail(detail)
			}
		}
		return nil, wire
	case o.GetLater() || o.GetOutcome() == nil:
		return nil, errAlone
	}
	msg := new(datav1.TransactResponse)
	if err := proto.Unmarshal(o.GetResponse(), msg); err != nil {
		return nil, fmt.Errorf("%w: answer in a bundle: %w", errAlone, err)
	}
	return msg, nil
}
