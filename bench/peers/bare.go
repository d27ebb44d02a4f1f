package main

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"strings"
	"time"

	"connectrpc.com/connect"

	"github.com/nearside-dev/nearside/bench/internal/load"
	"github.com/nearside-dev/nearside/bench/internal/node"
	"github.com/nearside-dev/nearside/bench/internal/process"
	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/gen/nearside/data/v1/datav1connect"
	"github.com/nearside-dev/nearside/internal/loadgen"
)

// This program's own servers, which run as processes of their own.
const (
	echoCommand = "echo"
	httpCommand = "http"
)

// payload is what rows and answers hold.
var payload = strings.Repeat("x", 170)

// echo answers each Get with one row: what a Connect handler costs that does nothing.
type echo struct {
	datav1connect.UnimplementedDataServiceHandler

	answer *datav1.GetResponse
}

// Get implements datav1connect.DataServiceHandler.
func (e *echo) Get(context.Context, *connect.Request[datav1.GetRequest]) (*connect.Response[datav1.GetResponse], error) {
	return connect.NewResponse(e.answer), nil
}

// serve is the process of a bare server.
func serve(ctx context.Context, command string, args []string) error {
	flags := flag.NewFlagSet(command, flag.ContinueOnError)
	listen := flags.String("listen", "", "address to listen on")
	if err := flags.Parse(args); err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /readyz", func(http.ResponseWriter, *http.Request) {})
	if command == echoCommand {
		mux.Handle(datav1connect.NewDataServiceHandler(&echo{answer: &datav1.GetResponse{Row: &datav1.Row{
			Values: []*datav1.Value{text(payload)},
		}}}))
	} else {
		mux.HandleFunc("GET /", func(w http.ResponseWriter, _ *http.Request) {
			io.WriteString(w, payload) //nolint:errcheck // the caller has gone, then
		})
	}
	server := &http.Server{Addr: *listen, Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	defer context.AfterFunc(ctx, func() { _ = server.Close() })() // there is nothing to lose
	if err := server.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// startSelf starts one of this program's own servers.
func startSelf(ctx context.Context, command string) (*process.Process, string, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, "", err
	}
	addr, err := process.FreeAddr(ctx, 1)
	if err != nil {
		return nil, "", err
	}
	p, err := process.Start(command, self, command, "-listen", addr)
	if err != nil {
		return nil, "", err
	}
	if err := node.Await(ctx, p, func(ctx context.Context) error { return node.Fetch(ctx, "http://"+addr+"/readyz") }); err != nil {
		return nil, "", errors.Join(err, p.Stop())
	}
	return p, addr, nil
}

func startHTTP(ctx context.Context, s *settings, _ string) (*running, error) {
	p, addr, err := startSelf(ctx, httpCommand)
	if err != nil {
		return nil, err
	}
	return &running{servers: []*process.Process{p}, stop: p.Stop, calls: []call{
		closedLoop(s, "GET of 170 bytes", getTask(addr, func(*rand.Rand) string { return "/" })),
	}}, nil
}

func startEcho(ctx context.Context, s *settings, _ string) (*running, error) {
	p, addr, err := startSelf(ctx, echoCommand)
	if err != nil {
		return nil, err
	}
	return &running{servers: []*process.Process{p}, stop: p.Stop, calls: []call{
		closedLoop(s, "Get, protobuf over HTTP/1.1", connectTask(ctx, addr, func(c *load.Client, random *rand.Rand) error {
			return c.Call(datav1connect.DataServiceGetProcedure, getRequest(random, s.rows), nil)
		})),
	}}, nil
}

// connectTask makes tasks that call Connect methods.
func connectTask(ctx context.Context, addr string, f func(*load.Client, *rand.Rand) error) func(int) (loadgen.Task, func(), error) {
	return func(client int) (loadgen.Task, func(), error) {
		c, err := load.Dial(ctx, addr)
		if err != nil {
			return nil, nil, err
		}
		random := rand.New(rand.NewPCG(uint64(client), 8))
		return func(context.Context) (int, error) { return 0, f(c, random) }, c.Close, nil
	}
}

// getTask makes tasks that GET a path over HTTP/1.1 and want status 200.
func getTask(addr string, path func(*rand.Rand) string) func(int) (loadgen.Task, func(), error) {
	return func(client int) (loadgen.Task, func(), error) {
		conn, err := net.Dial("tcp", addr) //nolint:noctx // to this machine
		if err != nil {
			return nil, nil, err
		}
		random, in := rand.New(rand.NewPCG(uint64(client), 9)), bufio.NewReaderSize(conn, 16<<10)
		task := func(context.Context) (int, error) {
			if _, err := io.WriteString(conn, "GET "+path(random)+" HTTP/1.1\r\nHost: "+addr+"\r\n\r\n"); err != nil {
				return 0, err
			}
			answer, err := http.ReadResponse(in, nil)
			if err != nil {
				return 0, err
			}
			_, err = io.Copy(io.Discard, answer.Body)
			if err = errors.Join(err, answer.Body.Close()); err == nil && answer.StatusCode != http.StatusOK {
				err = fmt.Errorf("status %s", answer.Status)
			}
			return 0, err
		}
		return task, func() { _ = conn.Close() }, nil // its requests have said what they had to
	}
}

func text(s string) *datav1.Value { return &datav1.Value{Kind: &datav1.Value_Text{Text: s}} }

func integer(i int64) *datav1.Value { return &datav1.Value{Kind: &datav1.Value_Integer{Integer: i}} }

func getRequest(random *rand.Rand, rows int) *datav1.GetRequest {
	return &datav1.GetRequest{
		Database: "bench", Table: "bench_rows", Key: &datav1.Key{Values: []*datav1.Value{integer(random.Int64N(int64(rows)))}},
	}
}
