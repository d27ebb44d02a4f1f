package main

import (
	"context"
	"errors"
	"flag"
	"net/http"
	"os"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"

	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/gen/nearside/data/v1/datav1connect"
)

const echoCommand = "echo"

// echo answers each Get with one message: what a Connect handler costs that does nothing.
type echo struct {
	datav1connect.UnimplementedDataServiceHandler

	answer *datav1.GetResponse
}

// Get implements datav1connect.DataServiceHandler.
func (e *echo) Get(context.Context, *connect.Request[datav1.GetRequest]) (*connect.Response[datav1.GetResponse], error) {
	return connect.NewResponse(e.answer), nil
}

// serveEcho is the process that answers with the message in a file.
func serveEcho(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet(echoCommand, flag.ContinueOnError)
	listen := flags.String("listen", "", "address to listen on")
	file := flags.String("answer", "", "file with a GetResponse")
	if err := flags.Parse(args); err != nil {
		return err
	}
	text, err := os.ReadFile(*file)
	if err != nil {
		return err
	}
	e := &echo{answer: new(datav1.GetResponse)}
	if err := proto.Unmarshal(text, e.answer); err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.Handle(datav1connect.NewDataServiceHandler(e))
	mux.HandleFunc("GET /readyz", func(http.ResponseWriter, *http.Request) {})
	server := &http.Server{Addr: *listen, Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	defer context.AfterFunc(ctx, func() { _ = server.Close() })() // there is nothing to lose
	if err := server.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}
