package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"

	"github.com/nearside-dev/nearside/bench/internal/node"
	"github.com/nearside-dev/nearside/bench/internal/process"
)

// daprStore is a state store in daprd's own memory: the least that its state API can cost.
const daprStore = `apiVersion: dapr.io/v1alpha1
kind: Component
metadata:
  name: store
spec:
  type: state.in-memory
  version: v1
`

// startDapr starts a daprd without a control plane.
func startDapr(ctx context.Context, s *settings, dir string) (*running, error) {
	program, err := exec.LookPath("daprd")
	if err != nil {
		return nil, errNotInstalled
	}
	if err := os.WriteFile(filepath.Join(dir, "store.yaml"), []byte(daprStore), 0o600); err != nil {
		return nil, err
	}
	args := []string{"--app-id", "bench", "--resources-path", dir, "--dapr-listen-addresses", "127.0.0.1"}
	var addr string
	for _, flag := range []string{"--dapr-grpc-port", "--dapr-internal-grpc-port", "--metrics-port", "--dapr-http-port"} {
		if addr, err = process.FreeAddr(ctx, 1); err != nil {
			return nil, err
		}
		_, port, err := net.SplitHostPort(addr)
		if err != nil {
			return nil, err
		}
		args = append(args, flag, port)
	}
	p, err := process.Start("daprd", program, args...)
	if err != nil {
		return nil, err
	}
	err = node.Await(ctx, p, func(ctx context.Context) error { return node.Fetch(ctx, "http://"+addr+"/v1.0/healthz/outbound") })
	if err == nil {
		err = fillDapr(ctx, addr, s.rows)
	}
	if err != nil {
		return nil, errors.Join(err, p.Stop())
	}
	return &running{servers: []*process.Process{p}, stop: p.Stop, calls: []call{
		closedLoop(s, "state GET, in memory", getTask(addr, func(random *rand.Rand) string {
			return "/v1.0/state/store/row" + strconv.Itoa(random.IntN(s.rows))
		})),
	}}, nil
}

// fillDapr saves all keys, a thousand in a request.
func fillDapr(ctx context.Context, addr string, rows int) error {
	type item struct {
		Key   string `json:"key"`
		Value string `json:"value"`
	}
	const chunk = 1000
	for from := 0; from < rows; from += chunk {
		var items []item
		for i := from; i < min(from+chunk, rows); i++ {
			items = append(items, item{"row" + strconv.Itoa(i), payload})
		}
		body, err := json.Marshal(items)
		if err != nil {
			return err
		}
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+addr+"/v1.0/state/store", bytes.NewReader(body))
		if err != nil {
			return err
		}
		req.Header.Set("Content-Type", "application/json")
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			return err
		}
		_, err = io.Copy(io.Discard, res.Body)
		if err = errors.Join(err, res.Body.Close()); err == nil && res.StatusCode/100 != 2 {
			err = fmt.Errorf("save state: %s", res.Status)
		}
		if err != nil {
			return err
		}
	}
	return nil
}
