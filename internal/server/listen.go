package server

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
)

// ErrNotLoopback means that an address can be reached from other machines, which is not allowed until callers are
// authenticated.
var ErrNotLoopback = errors.New("address is not a loopback address")

// Listen listens on a TCP address, host:port. Unless insecure is set, every address that the host stands for must be a
// loopback address, else the error is ErrNotLoopback.
func Listen(ctx context.Context, addr string, insecure bool) (net.Listener, error) {
	if !insecure {
		if err := checkLoopback(ctx, addr); err != nil {
			return nil, fmt.Errorf("listen on %s: %w", addr, err)
		}
	}
	ln, err := new(net.ListenConfig).Listen(ctx, "tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", addr, err)
	}
	return ln, nil
}

func checkLoopback(ctx context.Context, addr string) error {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return err
	}
	if host == "" {
		return fmt.Errorf("%w: no host stands for all interfaces", ErrNotLoopback)
	}
	addrs, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return err
	}
	for _, a := range addrs {
		if !netip.Addr.IsLoopback(a.Unmap()) {
			return fmt.Errorf("%w: %s", ErrNotLoopback, a)
		}
	}
	return nil
}
