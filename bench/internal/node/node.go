// Package node runs roles of the real binary as processes of their own, for programs that put load on them.
package node

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"time"

	"connectrpc.com/connect"

	"github.com/nearside-dev/nearside/bench/internal/process"
	controlv1 "github.com/nearside-dev/nearside/gen/nearside/control/v1"
	"github.com/nearside-dev/nearside/gen/nearside/control/v1/controlv1connect"
)

const (
	adminPortOffset = 1000
	readyTimeout    = 2 * time.Minute
	pollInterval    = 20 * time.Millisecond
)

// Node is a running role.
type Node struct {
	*process.Process

	Addr string // host:port
}

// Start starts a role of the binary with data in a folder of its name, and waits until it is ready. It asks nobody who they are,
// as what it is compared with does not either.
func Start(ctx context.Context, binary, dir, name string, args ...string) (*Node, error) {
	addr, err := process.FreeAddr(ctx, adminPortOffset)
	if err != nil {
		return nil, err
	}
	args = append(args, "--dir", filepath.Join(dir, name), "--log-level", "warn", "--insecure-no-auth", "--listen", addr)
	p, err := process.Start(name, binary, args...)
	if err != nil {
		return nil, err
	}
	n := &Node{Process: p, Addr: addr}
	err = Await(ctx, p, func(ctx context.Context) error { return Fetch(ctx, n.URL()+"/readyz") })
	if err != nil {
		return nil, errors.Join(err, p.Stop())
	}
	return n, nil
}

// URL is the node's.
func (n *Node) URL() string { return "http://" + n.Addr }

// Complete waits until a region's copy of a database has no lag.
func (n *Node) Complete(ctx context.Context, database string, version uint64) error {
	status := controlv1connect.NewStatusServiceClient(http.DefaultClient, n.URL())
	return Await(ctx, n.Process, func(ctx context.Context) error {
		res, err := status.GetStatus(ctx, connect.NewRequest(&controlv1.GetStatusRequest{LocalOnly: true}))
		if err != nil {
			return err
		}
		for _, region := range res.Msg.GetRegions() {
			for _, d := range region.GetDatabases() {
				if d.GetName() == database && d.GetProblem() == "" && d.GetVersion() >= version {
					return nil
				}
			}
		}
		return fmt.Errorf("database %s is not there at version %d", database, version)
	})
}

// Await waits until check has no error. It gives up when the process ends, or after two minutes.
func Await(ctx context.Context, p *process.Process, check func(context.Context) error) error {
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
		case <-p.Ended():
			return fmt.Errorf("%s ended before it was ready:\n%s", p.Name, p.Output())
		case <-ctx.Done():
			return fmt.Errorf("waiting for %s: %w\n%s", p.Name, err, p.Output())
		}
	}
}

// Fetch makes a GET, which must be answered with a success.
func Fetch(ctx context.Context, url string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		return err
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, res.Body)
	if err = errors.Join(err, res.Body.Close()); err == nil && res.StatusCode/100 != 2 {
		err = fmt.Errorf("%s: %s", url, res.Status)
	}
	return err
}
