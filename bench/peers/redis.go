package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os/exec"
	"strconv"

	"github.com/nearside-dev/nearside/bench/internal/node"
	"github.com/nearside-dev/nearside/bench/internal/process"
	"github.com/nearside-dev/nearside/internal/loadgen"
)

// startRedis starts a redis-server whose writes are on the disk before they are answered.
func startRedis(ctx context.Context, s *settings, dir string) (*running, error) {
	program, err := exec.LookPath("redis-server")
	if err != nil {
		return nil, errNotInstalled
	}
	addr, err := process.FreeAddr(ctx, 1)
	if err != nil {
		return nil, err
	}
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, err
	}
	p, err := process.Start("redis-server", program, "--bind", host, "--port", port, "--dir", dir, "--save", "",
		"--appendonly", "yes", "--appendfsync", "always")
	if err != nil {
		return nil, err
	}
	err = node.Await(ctx, p, func(context.Context) error { return fillRedis(addr, s.rows) })
	if err != nil {
		return nil, errors.Join(err, p.Stop())
	}
	key := func(random *rand.Rand) string { return "row:" + strconv.Itoa(random.IntN(s.rows)) }
	return &running{servers: []*process.Process{p}, stop: p.Stop, calls: []call{
		closedLoop(s, "GET", redisTask(addr, func(random *rand.Rand) []string { return []string{"GET", key(random)} })),
		closedLoop(s, "durable SET", redisTask(addr, func(random *rand.Rand) []string { return []string{"SET", key(random), payload} })),
	}}, nil
}

// fillRedis sets all keys, a thousand in a command.
func fillRedis(addr string, rows int) error {
	c, err := dialRedis(addr)
	if err != nil {
		return err
	}
	defer c.close()
	const chunk = 1000
	for from := 0; from < rows; from += chunk {
		words := []string{"MSET"}
		for i := from; i < min(from+chunk, rows); i++ {
			words = append(words, "row:"+strconv.Itoa(i), payload)
		}
		if err := c.command(words...); err != nil {
			return err
		}
	}
	return nil
}

func redisTask(addr string, command func(*rand.Rand) []string) func(int) (loadgen.Task, func(), error) {
	return func(client int) (loadgen.Task, func(), error) {
		c, err := dialRedis(addr)
		if err != nil {
			return nil, nil, err
		}
		random := rand.New(rand.NewPCG(uint64(client), 10))
		return func(context.Context) (int, error) { return 0, c.command(command(random)...) }, c.close, nil
	}
}

// redis speaks as much of Redis' protocol as GET and SET need.
type redis struct {
	conn net.Conn
	in   *bufio.Reader
	out  []byte
}

func dialRedis(addr string) (*redis, error) {
	conn, err := net.Dial("tcp", addr) //nolint:noctx // to this machine
	if err != nil {
		return nil, err
	}
	return &redis{conn: conn, in: bufio.NewReaderSize(conn, 16<<10)}, nil
}

func (c *redis) close() { _ = c.conn.Close() } // its commands have said what they had to

// command sends a command and reads its answer. An error or nothing as answer is an error.
func (c *redis) command(words ...string) error {
	c.out = fmt.Appendf(c.out[:0], "*%d\r\n", len(words))
	for _, w := range words {
		c.out = fmt.Appendf(c.out, "$%d\r\n%s\r\n", len(w), w)
	}
	if _, err := c.conn.Write(c.out); err != nil {
		return err
	}
	line, err := c.in.ReadSlice('\n')
	if err != nil {
		return err
	}
	line = bytes.TrimRight(line, "\r\n")
	switch {
	case len(line) > 0 && line[0] == '+':
		return nil
	case len(line) > 0 && line[0] == '$':
		n, err := strconv.Atoi(string(line[1:]))
		if err != nil || n < 0 || n > 1<<20 {
			return fmt.Errorf("%s is answered with %q", words[0], line)
		}
		_, err = io.CopyN(io.Discard, c.in, int64(n)+2)
		return err
	default:
		return fmt.Errorf("%s is answered with %q", words[0], line)
	}
}
