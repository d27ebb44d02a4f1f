// Command shipping is a service that has nothing to do with Nearside, for docs/services.md: it says what shipping an order costs, over
// Connect, gRPC and gRPC-Web. OrderService asks it through the mesh, where it is registered.
package main

import (
	"flag"
	"fmt"
	"log/slog"
	"net"
	"os"

	"github.com/nearside-dev/nearside/internal/meshtest/shipping"
)

func main() {
	listen := flag.String("listen", "127.0.0.1:0", "address to listen on")
	descriptors := flag.String("descriptors", "", "file to write the service's FileDescriptorSet to")
	flag.Parse()
	if *descriptors != "" {
		if err := os.WriteFile(*descriptors, shipping.Descriptors(), 0o600); err != nil {
			fail(err)
		}
	}
	ln, err := net.Listen("tcp", *listen) //nolint:noctx // it runs until it is killed
	if err != nil {
		fail(err)
	}
	fmt.Printf("listening on http://%s\n", ln.Addr())
	fail(shipping.Server().Serve(ln))
}

func fail(err error) {
	slog.Error("shipping", slog.Any("error", err))
	os.Exit(1)
}
