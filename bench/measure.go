package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/nearside-dev/nearside/bench/internal/load"
	"github.com/nearside-dev/nearside/bench/internal/tap"
	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/gen/nearside/data/v1/datav1connect"
	"github.com/nearside-dev/nearside/internal/histogram"
)

const (
	warmUpPart    = 5 // of a measurement's duration, before it
	applyPart     = 5 // of the rows, that the complete region follows once more
	batchGetKeys  = 100
	listRows      = 100
	sampleEvery   = 4 // paced writes for one look at another region
	lookBound     = time.Second
	settleTimeout = 10 * time.Second
	restLook      = 500 * time.Millisecond
	restTimeout   = 60 * time.Second
)

// measure does everything, in an order in which no measurement has the work of another beside it.
func (b *bench) measure(ctx context.Context) error {
	if err := b.startPrimary(ctx); err != nil {
		return err
	}
	b.logf("filling the primary with %d rows", b.rows)
	begin := time.Now()
	version, err := fill(ctx, b.primary, b.rows)
	if err != nil {
		return err
	}
	b.report.fillSeconds = time.Since(begin).Seconds()
	for _, step := range []func(context.Context, uint64) error{
		b.measureCold, b.measureApply, b.measureReads, b.measureMemory, b.measureCallers, b.measureDoors, b.measureWrites, b.measureLink, b.measureLag, b.measureUp,
	} {
		if err := step(ctx, version); err != nil {
			return err
		}
	}
	return nil
}

// measureCold starts the first region, which has nothing, and waits until it has everything.
func (b *bench) measureCold(ctx context.Context, version uint64) (err error) {
	b.logf("a cold sidecar copies them")
	if b.tap, err = tap.Start(ctx, b.primary.addr); err != nil {
		return err
	}
	begin := time.Now()
	n, err := b.startRegion(ctx, "eu-west-1", b.tap.Addr())
	if err != nil {
		return err
	}
	profiled := b.profileAll(ctx, "cold", []*node{b.primary, n})
	if err := n.caughtUp(ctx, version); err != nil {
		return err
	}
	took := time.Since(begin)
	memory, err := n.Memory()
	if err != nil {
		return err
	}
	cpu, err := n.CPU()
	if err != nil {
		return err
	}
	b.report.cold = cold{
		took: took, rows: b.rows, cpu: cpu, memory: memory,
		wirePerRow: float64(b.tap.Count().Down) / float64(b.rows),
	}
	return profiled()
}

// applySeconds is the metric of the time that a region spends on applying records.
const applySeconds = "nearside_replica_apply_batch_seconds_sum"

// measureApply has the region, which is complete, follow more rows, and takes the time that it applies: neither the start of
// the process nor the wait for the primary is in it.
func (b *bench) measureApply(ctx context.Context, _ uint64) error {
	region := b.regions[0]
	first, rows := b.rows+1, b.rows/applyPart
	b.logf("the sidecar follows %d more", rows)
	before, err := region.metric(ctx, applySeconds)
	if err != nil {
		return err
	}
	c, err := load.Dial(ctx, b.primary.addr)
	if err != nil {
		return err
	}
	defer c.Close()
	if err := insert(ctx, c, rand.New(rand.NewPCG(7, 8)), first, first+rows); err != nil {
		return err
	}
	if err := b.settle(ctx); err != nil {
		return err
	}
	after, err := region.metric(ctx, applySeconds)
	if err != nil {
		return err
	}
	b.report.applied, b.report.applySeconds = rows, after-before
	b.report.nextID = int64(first + rows)
	return nil
}

// measureReads measures the echo and the reads of the first region in turn.
func (b *bench) measureReads(ctx context.Context, _ uint64) error {
	region := b.regions[0]
	answer, err := b.sampleAnswer(ctx, region)
	if err != nil {
		return err
	}
	echo, err := b.startEcho(ctx, answer)
	if err != nil {
		return err
	}
	get := func(c *load.Client, random *rand.Rand) error {
		return c.Call(datav1connect.DataServiceGetProcedure, b.getRequest(random), nil)
	}
	if err := b.closed(ctx, measurement{name: echoName(len(answer)), servers: []*node{echo}}, echo, get); err != nil {
		return err
	}
	if err := b.stop(echo); err != nil {
		return err
	}
	if err := b.closed(ctx, measurement{name: "Get by key, sidecar's replica", servers: []*node{region}}, region, get); err != nil {
		return err
	}
	err = b.closed(ctx, measurement{name: selectByKey + ", sidecar's replica", servers: []*node{region}}, region,
		func(c *load.Client, random *rand.Rand) error { return selectRow(c, random.Int64N(int64(b.rows)), nil) })
	if err != nil {
		return err
	}
	err = b.closed(ctx, measurement{name: fmt.Sprintf("BatchGet of %d keys, sidecar's replica", batchGetKeys), servers: []*node{region}}, region,
		func(c *load.Client, random *rand.Rand) error {
			req := &datav1.BatchGetRequest{Database: database, Table: table}
			for range batchGetKeys {
				req.Keys = append(req.Keys, b.randomKey(random))
			}
			return c.Call(datav1connect.DataServiceBatchGetProcedure, req, nil)
		})
	if err != nil {
		return err
	}
	err = b.closed(ctx, measurement{name: fmt.Sprintf("List of %d rows by key, sidecar's replica", listRows), servers: []*node{region}}, region,
		func(c *load.Client, random *rand.Rand) error {
			return c.Call(datav1connect.DataServiceListProcedure, &datav1.ListRequest{
				Database: database, Table: table, PageSize: listRows,
				Start: &datav1.ListRequest_Bound{Values: []*datav1.Value{integer(random.Int64N(int64(b.rows - listRows)))}},
			}, nil)
		})
	if err != nil {
		return err
	}
	b.report.afterReads, err = region.Memory()
	return err
}

// sampleAnswer returns the answer of a Get, and sees to it that the replica gave it.
func (b *bench) sampleAnswer(ctx context.Context, n *node) ([]byte, error) {
	c, err := load.Dial(ctx, n.addr)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	var res datav1.GetResponse
	if err := c.Call(datav1connect.DataServiceGetProcedure, b.getRequest(rand.New(rand.NewPCG(3, 4))), &res); err != nil {
		return nil, err
	}
	if source := res.GetAnswer().GetSource(); res.Row == nil || source != datav1.Source_SOURCE_REPLICA {
		return nil, fmt.Errorf("a row is answered from %v", source)
	}
	return proto.Marshal(&res)
}

func (b *bench) getRequest(random *rand.Rand) *datav1.GetRequest {
	return &datav1.GetRequest{Database: database, Table: table, Key: b.randomKey(random)}
}

func (b *bench) randomKey(random *rand.Rand) *datav1.Key {
	return &datav1.Key{Values: []*datav1.Value{integer(random.Int64N(int64(b.rows)))}}
}

// measureWrites measures durable writes of one row, at the primary and through the region.
func (b *bench) measureWrites(ctx context.Context, _ uint64) error {
	region := b.regions[0]
	var id atomic.Int64
	id.Store(b.report.nextID)
	writeNext := func(c *load.Client, random *rand.Rand) error {
		return write(c, random, id.Add(1))
	}
	err := b.closed(ctx, measurement{name: "one-row write, at the primary", servers: []*node{b.primary}, beside: []*node{region}},
		b.primary, writeNext)
	if err != nil {
		return err
	}
	err = b.closed(ctx, measurement{name: "one-row write, through a sidecar", servers: []*node{b.primary, region}}, region, writeNext)
	b.report.nextID = id.Load() + 1
	return err
}

// measureLag has three regions follow writes at a steady rate and looks for them in another region than the caller's.
func (b *bench) measureLag(ctx context.Context, version uint64) error {
	if !b.wants("lag") {
		return nil
	}
	for _, name := range []string{"us-east-1", "ap-southeast-1"} {
		b.logf("%s copies the rows", name)
		n, err := b.startRegion(ctx, name, b.primary.addr)
		if err != nil {
			return err
		}
		if err := n.caughtUp(ctx, version); err != nil {
			return err
		}
	}
	var id atomic.Int64
	id.Store(b.report.nextID)
	var misses atomic.Uint64
	tasks := make([]load.Task, b.clients)
	writes := make([]histogram.Histogram, b.clients)
	for i := range tasks {
		writer, err := load.Dial(ctx, b.primary.addr)
		if err != nil {
			return err
		}
		defer writer.Close()
		reader, err := load.Dial(ctx, b.regions[i%len(b.regions)].addr)
		if err != nil {
			return err
		}
		defer reader.Close()
		random := rand.New(rand.NewPCG(5, uint64(i)))
		done := 0
		tasks[i] = func() (time.Duration, error) {
			begin := time.Now()
			row := id.Add(1)
			res, err := put(writer, random, row)
			committed := time.Now()
			if err != nil {
				return 0, err
			}
			writes[i].Record(committed.Sub(begin))
			if done++; (done+i)%sampleEvery != 0 {
				return -1, nil
			}
			source, err := look(reader, row, res.GetAnswer().GetBookmark())
			if err == nil && source != datav1.Source_SOURCE_REPLICA {
				misses.Add(1)
			}
			return time.Since(committed), err
		}
	}
	b.logf("lag at %d writes/s", b.rate)
	if _, err := load.Paced(ctx, b.duration/warmUpPart, b.rate, tasks); err != nil {
		return err
	}
	if err := b.settle(ctx); err != nil {
		return err
	}
	clear(writes)
	misses.Store(0)
	before, profiled := b.tap.Count(), b.profileAll(ctx, "lag", append([]*node{b.primary}, b.regions...))
	usage, err := cpuOf(append([]*node{b.primary}, b.regions...))
	if err != nil {
		return err
	}
	r, err := load.Paced(ctx, b.duration, b.rate, tasks)
	if err != nil {
		return err
	}
	used, err := cpuOf(append([]*node{b.primary}, b.regions...))
	if err != nil {
		return err
	}
	if err := errors.Join(profiled(), b.settle(ctx)); err != nil {
		return err
	}
	after := b.tap.Count()
	b.report.lag = lag{
		regions: len(b.regions), rate: r.Rate(), look: r.Latency, misses: misses.Load(),
		wireDown: float64(after.Down-before.Down) / float64(r.Requests), wireUp: float64(after.Up-before.Up) / float64(r.Requests),
		cores: (used - usage).Seconds() / r.Elapsed.Seconds(),
	}
	for i := range writes {
		b.report.lag.write.Merge(&writes[i])
	}
	return nil
}

// look reads a row that must be there, as fresh as a bookmark.
func look(c *load.Client, id int64, bookmark string) (datav1.Source, error) {
	var res datav1.GetResponse
	err := c.Call(datav1connect.DataServiceGetProcedure, &datav1.GetRequest{
		Database: database, Table: table, Key: &datav1.Key{Values: []*datav1.Value{integer(id)}},
		Consistency: &datav1.Consistency{
			Level: datav1.Consistency_LEVEL_AT_LEAST, Bookmark: bookmark, MaxWait: durationpb.New(lookBound),
		},
	}, &res)
	if err == nil && res.Row == nil {
		err = fmt.Errorf("row %d is not there at a bookmark that has it", id)
	}
	return res.GetAnswer().GetSource(), err
}

// settle waits until all regions have what the primary has, so that what was sent belongs to what was written.
func (b *bench) settle(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, settleTimeout)
	defer cancel()
	c, err := load.Dial(ctx, b.primary.addr)
	if err != nil {
		return err
	}
	defer c.Close()
	var res datav1.GetDatabaseResponse
	if err := c.Call(datav1connect.DataServiceGetDatabaseProcedure, &datav1.GetDatabaseRequest{Name: database}, &res); err != nil {
		return err
	}
	for _, n := range b.regions {
		if err := n.caughtUp(ctx, res.GetDatabase().GetVersion()); err != nil {
			return err
		}
	}
	return nil
}

// measurement says what closed measures.
type measurement struct {
	name    string
	servers []*node  // whose processor time counts
	beside  []*node  // profiled too
	targets []string // where clients call, in turn; nil is the target's address
}

// closed measures a call that all clients repeat without a pause.
func (b *bench) closed(ctx context.Context, m measurement, target *node, call func(*load.Client, *rand.Rand) error) error {
	if !b.wants(m.name) {
		return nil
	}
	if err := b.rest(ctx); err != nil {
		return err
	}
	b.logf("%s", m.name)
	tasks := make([]load.Task, b.clients)
	for i := range tasks {
		addr := target.addr
		if len(m.targets) > 0 {
			addr = m.targets[i%len(m.targets)]
		}
		c, err := load.Dial(ctx, addr)
		if err != nil {
			return err
		}
		c.Show(target.token)
		defer c.Close()
		random := rand.New(rand.NewPCG(uint64(i), 6))
		tasks[i] = func() (time.Duration, error) {
			begin := time.Now()
			err := call(c, random)
			return time.Since(begin), err
		}
	}
	if _, err := load.Closed(ctx, b.duration/warmUpPart, tasks); err != nil {
		return fmt.Errorf("%s: %w", m.name, err)
	}
	profiled := b.profileAll(ctx, m.name, append(m.servers, m.beside...))
	before, err := cpuOf(m.servers)
	if err != nil {
		return err
	}
	r, err := load.Closed(ctx, b.duration, tasks)
	if err != nil {
		return fmt.Errorf("%s: %w", m.name, err)
	}
	after, err := cpuOf(m.servers)
	if err != nil {
		return err
	}
	line := hop{name: m.name, result: r, cpu: after - before}
	for _, n := range m.servers {
		memory, err := n.Memory()
		if err != nil {
			return err
		}
		line.peak = append(line.peak, memory.Peak)
	}
	b.report.hops = append(b.report.hops, line)
	b.logf("  %.0f/s, p50 %s ms, p99 %s ms, %.2f s of the servers' processors per 100 k", r.Rate(),
		milliseconds(&r.Latency, 0.5), milliseconds(&r.Latency, 0.99), line.cpuPer100k())
	return profiled()
}

// rest waits until the roles have done what was left over from what came before, which is mostly their stores' compactions: until
// they use less than a twentieth of a processor together. It waits restTimeout at most, and says so.
func (b *bench) rest(ctx context.Context) error {
	nodes := append([]*node{b.primary}, b.regions...)
	last, err := cpuOf(nodes)
	if err != nil {
		return err
	}
	for range restTimeout / restLook {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(restLook):
		}
		now, err := cpuOf(nodes)
		if err != nil {
			return err
		}
		if now-last < restLook/20 {
			return nil
		}
		last = now
	}
	b.logf("  the roles have other work after %v still", restTimeout)
	return nil
}

// cpuOf returns the processor time of nodes together.
func cpuOf(nodes []*node) (sum time.Duration, err error) {
	for _, n := range nodes {
		d, err := n.CPU()
		if err != nil {
			return 0, err
		}
		sum += d
	}
	return sum, nil
}

// profileAll begins to profile nodes, if that is wished. The function it returns waits for the profiles.
func (b *bench) profileAll(ctx context.Context, measure string, nodes []*node) (wait func() error) {
	var all sync.WaitGroup
	errs := make([]error, len(nodes))
	for i, n := range nodes {
		if b.profiles != "" && n.Name != echoCommand {
			all.Go(func() { errs[i] = b.profile(ctx, n, measure, b.duration) })
		}
	}
	return func() error {
		all.Wait()
		return errors.Join(errs...)
	}
}
