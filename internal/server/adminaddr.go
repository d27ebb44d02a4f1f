package server

import (
	"fmt"
	"net"
	"strconv"
)

// AdminPortOffset is how far a role's admin port is above its listener's.
const AdminPortOffset = 1000

// AdminAddr returns the default address of the admin listener beside a listener's: the same host, the port + 1000.
func AdminAddr(listen string) (string, error) {
	host, port, err := net.SplitHostPort(listen)
	if err != nil {
		return "", err
	}
	n, err := strconv.Atoi(port)
	if err != nil || n < 0 || n+AdminPortOffset > 65535 {
		return "", fmt.Errorf("no admin port %d above the port of %s", AdminPortOffset, listen)
	}
	return net.JoinHostPort(host, strconv.Itoa(n+AdminPortOffset)), nil
}
