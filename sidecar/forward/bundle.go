package forward

import (
	"context"
	"errors"
	"fmt"
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
	bundleShare         = 4        // a bundle beside others has at least one call for so many of theirs

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
	primary *Primary
	client  replicationv1connect.BundleServiceClient
	off     atomic.Bool // the primary does not know bundles
	sizes   prometheus.Histogram

	mu        sync.Mutex
	databases map[string]*queue // those with a bundle on its way
}

// newBundles returns the bundles of a Primary. The error is a metric's that the registerer has already.
func newBundles(p *Primary, o Options) (*bundles, error) {
	b := &bundles{
		primary: p,
		client:  replicationv1connect.NewBundleServiceClient(o.HTTPClient, o.URL, connect.WithAcceptCompression("gzip", nil, nil)),
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
	sending int  // bundles on their way, and one that is about to be if fresh
	sent    int  // their calls
	fresh   bool // one of those who send has not taken any calls yet: it takes what comes until then
	waiting []*bundled
}

// bundled is a call of a bundle. It has no context: those of hundreds of calls at a time cost more than what they send.
type bundled struct {
	call   replicationv1.TransactBundleRequest_Call
	limits limits
	bundle *bundle       // set before the sender swaps gone
	gone   atomic.Bool   // swapped to true by whoever is first: the sender takes the call, or its caller gives up
	done   chan struct{} // closed when what follows is set

	outcome      *replicationv1.TransactBundleResponse_Outcome
	err, verdict error // of the bundle
}

// bundle is some calls on their way.
type bundle struct {
	cancel context.CancelCauseFunc
	holds  atomic.Int64 // the sender's while it takes calls, and one for each call whose caller waits
	wrote  atomic.Bool  // it may have reached the primary
}

// leave gives up a hold; a bundle for which nobody waits is cancelled.
func (b *bundle) leave() {
	if b.holds.Add(-1) == 0 {
		b.cancel(nil)
	}
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

// inBundle makes one attempt of a call, with others. The error is errAlone where it has to be made alone, and then nothing was
// sent or nothing was done. encoded is msg, if the caller has it.
func (c *call) inBundle(
	caller context.Context, l limits, msg *datav1.TransactRequest, encoded []byte,
) (*datav1.TransactResponse, error) {
	b := c.primary.bundles
	if b.off.Load() {
		return nil, errAlone
	}
	if encoded == nil {
		var err error
		if encoded, err = proto.Marshal(msg); err != nil {
			return nil, errAlone
		}
	}
	done, err := c.primary.allow()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errRejected, err)
	}
	item := &bundled{limits: l, done: make(chan struct{})}
	item.call.Request = encoded
	item.call.IdempotencyKey = c.first(canonicalKey)
	item.call.TraceParent = c.first(requestid.ParentHeader)
	item.call.Authorization = c.first(canonicalAuthorization)
	item.call.RequestId = c.first(requestid.Header)
	item.call.CallerAddress = identity.AddressOf(caller).AsSlice()
	b.add(msg.GetDatabase(), item)
	res, err, verdict := c.await(caller, item)
	done(verdict)
	return res, err
}

// await returns what became of a call in a bundle, and what that tells the breaker.
func (c *call) await(caller context.Context, item *bundled) (res *datav1.TransactResponse, err, verdict error) {
	var late <-chan time.Time
	if item.limits.callers { // else the bundle's time is this call's
		timer := time.NewTimer(time.Until(item.limits.deadline))
		defer timer.Stop()
		late = timer.C
	}
	select {
	case <-item.done:
		if err, verdict = item.err, item.verdict; err == nil {
			res, err = item.response()
			if !errors.Is(err, errAlone) { // in which case the primary answers
				err, verdict = c.primary.judge(caller, err)
			}
		}
		c.sent = err != nil && !connect.IsWireError(err) && item.bundle != nil && item.bundle.wrote.Load()
		return res, err, verdict
	case <-late:
		err, verdict = c.primary.late()
	case <-caller.Done():
		err, verdict = c.primary.judge(caller, caller.Err())
	}
	if c.sent = item.gone.Swap(true); c.sent { // or is about to be
		item.bundle.leave()
	}
	return nil, err, verdict
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
	if q.sending < maxBundlesInFlight && !q.fresh && q.worthwhile() {
		q.sending++
		q.fresh = true
		go b.run(database, q)
	}
}

// worthwhile reports whether enough calls wait for a bundle of their own. A few beside a large bundle are better off behind it: where
// hundreds of callers come at the same time, nearly all of them would go with one bundle, and the rest one by one beside it, each with
// a call to the primary and a commit of its own.
func (q *queue) worthwhile() bool { return len(q.waiting)*bundleShare >= q.sent }

// run sends what waits as a bundle, and then what has come meanwhile, until nothing has.
func (b *bundles) run(database string, q *queue) {
	for last := 0; ; {
		gather.Ready(last, maxBundleCalls, func() int {
			b.mu.Lock()
			defer b.mu.Unlock()
			return len(q.waiting)
		})
		items := b.next(database, q, last)
		if len(items) == 0 {
			return
		}
		if err := b.send(items); errors.Is(err, errSilent) {
			b.fail(q, err)
		}
		last = len(items) // before send leaves out who has gone
	}
}

// next returns the calls of a sender's next bundle, after one of some calls is done; none ends the bundles of that sender.
func (b *bundles) next(database string, q *queue, done int) []*bundled {
	b.mu.Lock()
	defer b.mu.Unlock()
	q.fresh = false
	q.sent -= done
	n := min(len(q.waiting), maxBundleCalls)
	if q.sending > 1 && !q.worthwhile() {
		n = 0 // another sender takes them
	}
	items := slices.Clone(q.waiting[:n])
	q.waiting = slices.Delete(q.waiting, 0, n)
	q.sent += n
	if n == 0 {
		if q.sending--; q.sending == 0 {
			delete(b.databases, database)
		}
	}
	return items
}

// send sends a bundle and tells its calls what became of them. It returns early when nobody waits any more. The error is errSilent
// where the primary is not heard.
func (b *bundles) send(items []*bundled) error {
	ctx, cancel := context.WithCancelCause(context.Background())
	defer cancel(nil)
	sent := &bundle{cancel: cancel}
	sent.holds.Store(1)
	items = slices.DeleteFunc(items, func(i *bundled) bool {
		sent.holds.Add(1)
		i.bundle = sent
		gone := i.gone.Swap(true)
		if gone {
			sent.holds.Add(-1)
		}
		return gone
	})
	sent.leave()
	if len(items) == 0 {
		return nil
	}
	b.sizes.Observe(float64(len(items)))
	outcomes, err, verdict := b.call(ctx, sent, items)
	for i, item := range items {
		if item.err, item.verdict = err, verdict; err == nil {
			item.outcome = outcomes[i]
		}
		close(item.done)
	}
	return err
}

// call makes the call of a bundle, and returns its calls' outcomes or the error of all, and what that tells the breaker.
func (b *bundles) call(
	ctx context.Context, sent *bundle, items []*bundled,
) (outcomes []*replicationv1.TransactBundleResponse_Outcome, err, verdict error) {
	last := items[0].limits
	now := time.Now()
	req := &replicationv1.TransactBundleRequest{Calls: make([]*replicationv1.TransactBundleRequest_Call, len(items))}
	for i, item := range items {
		if item.limits.deadline.After(last.deadline) {
			last = item.limits
		}
		item.call.TimeoutMs = item.limits.milliseconds(now)
		req.Calls[i] = &item.call
	}
	ctx, cancel := last.with(ctx)
	defer cancel()
	defer b.primary.listen(ctx, sent.cancel).Stop()
	res, err := b.client.TransactBundle(httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		WroteHeaders: func() { sent.wrote.Store(true) },
	}), connect.NewRequest(req))
	switch err, verdict = b.primary.judge(ctx, err); {
	case err == nil && len(res.Msg.GetOutcomes()) != len(items):
		return nil, errAlone, nil
	case err == nil:
		return res.Msg.GetOutcomes(), nil, nil
	case connect.IsWireError(err) && connect.CodeOf(err) != connect.CodeUnavailable:
		if connect.CodeOf(err) == connect.CodeUnimplemented {
			b.off.Store(true)
		}
		return nil, errAlone, verdict // that is about the bundle, and none of its calls'
	default:
		return nil, err, verdict
	}
}

// fail tells those who wait for the next bundle that there is no use in it: they have waited as long as the primary was not heard.
func (b *bundles) fail(q *queue, err error) {
	b.mu.Lock()
	items := q.waiting
	q.waiting = nil
	b.mu.Unlock()
	for _, item := range items {
		item.err, item.verdict = err, errNotCounted
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
