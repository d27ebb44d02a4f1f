package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nearside-dev/nearside/bench/internal/load"
	"github.com/nearside-dev/nearside/bench/internal/process"
	"github.com/nearside-dev/nearside/bench/internal/tap"
	controlv1 "github.com/nearside-dev/nearside/gen/nearside/control/v1"
	"github.com/nearside-dev/nearside/gen/nearside/control/v1/controlv1connect"
	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/gen/nearside/data/v1/datav1connect"
)

const (
	adminPortOffset = 1000
	readyTimeout    = 5 * time.Minute
	pollInterval    = 20 * time.Millisecond

	database   = "bench"
	table      = "users"
	batchRows  = 10_000
	schemaSQL  = "CREATE TABLE users (id INTEGER NOT NULL PRIMARY KEY, email TEXT NOT NULL, age INTEGER NOT NULL, bio TEXT NOT NULL)"
	uniqueSQL  = "CREATE UNIQUE INDEX users_by_email ON users (email)"
	byAgeSQL   = "CREATE INDEX users_by_age ON users (age)"
	bioBytes   = 170 // with key, email and age about 200
	bioLetters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789 ."
)

// node is a running role.
type node struct {
	*process.Process

	addr  string
	token string // that calls of it show; "" is none
}

// dial connects to the node.
func (n *node) dial(ctx context.Context) (*load.Client, error) {
	c, err := load.Dial(ctx, n.addr)
	if err == nil {
		c.Show(n.token)
	}
	return c, err
}

// withoutCallers starts a role that asks nobody who they are: what is measured is what figures of other systems have, which do not
// either. callers.go measures what asking adds.
const withoutCallers = "--insecure-no-auth"

// bench is one run.
type bench struct {
	settings

	data     string // folder
	progress io.Writer
	report   report

	primary *node
	regions []*node
	tap     *tap.Tap // between the first region and the primary
	nodes   []*node  // all, in order of starting
}

func (b *bench) logf(format string, args ...any) {
	fmt.Fprintf(b.progress, format+"\n", args...) //nolint:errcheck // progress is for eyes; the report is what counts
}

// close ends everything that runs, last started first.
func (b *bench) close() error {
	var errs []error
	for _, n := range slices.Backward(b.nodes) {
		errs = append(errs, n.Stop())
	}
	if b.tap != nil {
		errs = append(errs, b.tap.Close())
	}
	return errors.Join(errs...)
}

// stop ends one node.
func (b *bench) stop(n *node) error {
	b.nodes = slices.DeleteFunc(b.nodes, func(other *node) bool { return other == n })
	return n.Stop()
}

// start starts a role of the binary, without waiting for it.
func (b *bench) start(ctx context.Context, name string, args ...string) (*node, error) {
	return b.startProgram(ctx, name, b.nearside, append(args, "--dir", filepath.Join(b.data, name), "--log-level", "warn")...)
}

// startProgram starts a program that listens on its --listen.
func (b *bench) startProgram(ctx context.Context, name, program string, args ...string) (*node, error) {
	addr, err := process.FreeAddr(ctx, adminPortOffset)
	if err != nil {
		return nil, err
	}
	p, err := process.Start(name, program, append(args, "--listen", addr)...)
	if err != nil {
		return nil, err
	}
	n := &node{Process: p, addr: addr}
	b.nodes = append(b.nodes, n)
	return n, nil
}

func (b *bench) startPrimary(ctx context.Context) (err error) {
	if b.primary, err = b.start(ctx, "primary", "primary", withoutCallers); err != nil {
		return err
	}
	return b.primary.ready(ctx)
}

// startRegion starts a sidecar that has nothing yet and reaches the primary at an address.
func (b *bench) startRegion(ctx context.Context, region, primaryAddr string) (*node, error) {
	n, err := b.start(ctx, region, "sidecar", "--region", region, "--primary", "http://"+primaryAddr,
		withoutCallers, "--cache-bytes", "0") // what is measured is the replica
	if err != nil {
		return nil, err
	}
	b.regions = append(b.regions, n)
	return n, nil
}

// startEcho starts the echo, which answers with the given message.
func (b *bench) startEcho(ctx context.Context, answer []byte) (*node, error) {
	file := filepath.Join(b.data, "answer")
	if err := os.WriteFile(file, answer, 0o600); err != nil {
		return nil, err
	}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	n, err := b.startProgram(ctx, "echo", self, echoCommand, "--answer", file)
	if err != nil {
		return nil, err
	}
	return n, n.ready(ctx)
}

// ready waits until the node says that it is.
func (n *node) ready(ctx context.Context) error {
	return n.await(ctx, "is ready", func(ctx context.Context) error {
		_, err := fetch(ctx, "http://"+n.addr+"/readyz")
		return err
	})
}

// await waits until check has no error. It gives up when the node ends, or after readyTimeout.
func (n *node) await(ctx context.Context, what string, check func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	ticker := time.NewTicker(pollInterval)
	defer ticker.Stop()
	for {
		err := check(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-ticker.C:
		case <-n.Ended():
			return fmt.Errorf("%s ended before it %s:\n%s", n.Name, what, n.Output())
		case <-ctx.Done():
			return fmt.Errorf("waiting until %s %s: %w\n%s", n.Name, what, err, n.Output())
		}
	}
}

// caughtUp waits until the region's status shows that it has a version of the database and all that follows.
func (n *node) caughtUp(ctx context.Context, version uint64) error {
	return n.await(ctx, "is complete", func(ctx context.Context) error {
		c, err := n.dial(ctx)
		if err != nil {
			return err
		}
		defer c.Close()
		var status controlv1.GetStatusResponse
		err = c.Call(controlv1connect.StatusServiceGetStatusProcedure, &controlv1.GetStatusRequest{LocalOnly: true}, &status)
		if err != nil {
			return err
		}
		for _, region := range status.Regions {
			for _, d := range region.Databases {
				if d.Name != database {
					continue
				}
				if region.Ready && d.Problem == "" && d.Lag == 0 && d.Version >= version {
					return nil
				}
				return fmt.Errorf("version %d of %d, lag %d, %s%s", d.Version, version, d.Lag, region.Reason, d.Problem)
			}
		}
		return errors.New("the region does not know the database")
	})
}

// fill makes the database with its rows at a primary and returns the version that has them all.
func fill(ctx context.Context, primary *node, rows int) (version uint64, err error) {
	c, err := primary.dial(ctx)
	if err != nil {
		return 0, err
	}
	defer c.Close()
	if err := c.Call(datav1connect.DataServiceCreateDatabaseProcedure, &datav1.CreateDatabaseRequest{Name: database}, nil); err != nil {
		return 0, err
	}
	for _, sql := range []string{schemaSQL, uniqueSQL, byAgeSQL} {
		req := &datav1.ExecuteRequest{Database: database, Statement: &datav1.Statement{Sql: sql}}
		if err := c.Call(datav1connect.DataServiceExecuteProcedure, req, nil); err != nil {
			return 0, err
		}
	}
	random := rand.New(rand.NewPCG(1, 2))
	if err := insert(ctx, c, random, 0, rows); err != nil {
		return 0, err
	}
	res, err := put(c, random, int64(rows))
	return res.GetVersion(), err
}

// insert writes the rows from one id to before another, in large commits.
func insert(ctx context.Context, c *load.Client, random *rand.Rand, from, to int) error {
	for first := from; first < to; first += batchRows {
		req := &datav1.BatchInsertRequest{Database: database, Table: table, Columns: []string{"id", "email", "age", "bio"}}
		for id := first; id < min(first+batchRows, to); id++ {
			req.Rows = append(req.Rows, &datav1.Row{Values: rowValues(random, int64(id))})
		}
		if err := c.Call(datav1connect.DataServiceBatchInsertProcedure, req, nil); err != nil {
			return err
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
	return nil
}

// put writes one row.
func put(c *load.Client, random *rand.Rand, id int64) (*datav1.TransactResponse, error) {
	v := rowValues(random, id)
	res := new(datav1.TransactResponse)
	err := c.Call(datav1connect.DataServiceTransactProcedure, &datav1.TransactRequest{
		Database: database,
		Operations: []*datav1.Operation{{Operation: &datav1.Operation_Put{Put: &datav1.Put{
			Table: table, Values: map[string]*datav1.Value{"id": v[0], "email": v[1], "age": v[2], "bio": v[3]},
		}}}},
	}, res)
	return res, err
}

// rowValues makes a row of about 200 bytes whose text hardly repeats itself.
func rowValues(random *rand.Rand, id int64) []*datav1.Value {
	return []*datav1.Value{
		integer(id), text(string(appendEmail(nil, id))), integer(random.Int64N(100)), text(string(appendBio(nil, random))),
	}
}

func appendEmail(b []byte, id int64) []byte { return fmt.Appendf(b, "user%08d@example.org", id) }

// appendBio appends a row's long text: as many letters of each random number as it has whole ones.
func appendBio(b []byte, random *rand.Rand) []byte {
	for n := 0; n < bioBytes; {
		bits := random.Uint64()
		for range min(10, bioBytes-n) {
			b = append(b, bioLetters[bits&63])
			bits >>= 6
			n++
		}
	}
	return b
}

func integer(v int64) *datav1.Value { return &datav1.Value{Kind: &datav1.Value_Integer{Integer: v}} }
func text(v string) *datav1.Value   { return &datav1.Value{Kind: &datav1.Value_Text{Text: v}} }

// adminURL returns the address of a page of the node's admin listener.
func (n *node) adminURL(page string) (string, error) {
	host, port, err := net.SplitHostPort(n.addr)
	if err != nil {
		return "", err
	}
	number, err := strconv.Atoi(port)
	if err != nil {
		return "", err
	}
	return "http://" + net.JoinHostPort(host, strconv.Itoa(number+adminPortOffset)) + page, nil
}

// profile writes the processor profile of the next d into a file of the folder for profiles.
func (b *bench) profile(ctx context.Context, n *node, measure string, d time.Duration) error {
	url, err := n.adminURL(fmt.Sprintf("/debug/pprof/profile?seconds=%d", max(int(d.Seconds()), 1)))
	if err != nil {
		return err
	}
	var profile []byte
	err = n.await(ctx, "can be profiled", func(ctx context.Context) (err error) {
		profile, err = fetch(ctx, url)
		return err
	})
	if err != nil {
		return fmt.Errorf("profile %s: %w", n.Name, err)
	}
	name := strings.NewReplacer(" ", "-", ",", "", "/", "-", ":", "", "{", "", "}", "", "(", "", ")", "").Replace(measure + "-" + n.Name + ".pprof")
	return os.WriteFile(filepath.Join(b.profiles, name), profile, 0o600)
}

// metric returns the value of a metric of the node that has no labels.
func (n *node) metric(ctx context.Context, name string) (float64, error) {
	url, err := n.adminURL("/metrics")
	if err != nil {
		return 0, err
	}
	page, err := fetch(ctx, url)
	if err != nil {
		return 0, fmt.Errorf("metrics of %s: %w", n.Name, err)
	}
	for line := range strings.Lines(string(page)) {
		if value, ok := strings.CutPrefix(line, name+" "); ok {
			return strconv.ParseFloat(strings.TrimSpace(value), 64)
		}
	}
	return 0, fmt.Errorf("%s has no metric %s", n.Name, name)
}

// fetch returns what a GET is answered with, if that is a success.
func fetch(ctx context.Context, url string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		return nil, err
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	body, err := io.ReadAll(res.Body)
	if err = errors.Join(err, res.Body.Close()); err == nil && res.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: status %d: %.300s", url, res.StatusCode, body)
	}
	return body, err
}
