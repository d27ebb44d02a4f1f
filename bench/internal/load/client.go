// Package load calls Connect methods from many clients at once and counts what comes back. The generator shares the machine
// with what it measures, so a client is one HTTP/1.1 connection and one goroutine, and does no more than it must.
package load

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"time"

	"google.golang.org/protobuf/proto"
)

// callTimeout bounds one call. A measurement in which a call takes so long means nothing.
const callTimeout = 2 * time.Minute

// Client calls methods on a connection of its own, one at a time.
type Client struct {
	conn   net.Conn
	reader *bufio.Reader
	head   []byte // of each request, up to the path
	out    []byte
	body   []byte
	answer bytes.Buffer
}

// Dial connects to host:port. Who is done with the client closes it.
func Dial(ctx context.Context, addr string) (*Client, error) {
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	return &Client{
		conn: conn, reader: bufio.NewReaderSize(conn, 32<<10),
		head: []byte("Host: " + addr + "\r\nContent-Type: application/proto\r\nConnect-Protocol-Version: 1\r\nContent-Length: "),
	}, nil
}

// Close closes the connection.
func (c *Client) Close() error { return c.conn.Close() }

// Call calls a procedure ("/package.Service/Method"). The answer is decoded into res unless that is nil. An answer that is
// not a success is an error with its text.
func (c *Client) Call(procedure string, req, res proto.Message) (err error) {
	if c.body, err = (proto.MarshalOptions{}).MarshalAppend(c.body[:0], req); err != nil {
		return fmt.Errorf("%s: %w", procedure, err)
	}
	if err := c.roundTrip(procedure); err != nil {
		return fmt.Errorf("%s: %w", procedure, err)
	}
	if res == nil {
		return nil
	}
	if err := proto.Unmarshal(c.answer.Bytes(), res); err != nil {
		return fmt.Errorf("%s: %w", procedure, err)
	}
	return nil
}

func (c *Client) roundTrip(procedure string) error {
	c.out = append(append(append(c.out[:0], "POST "...), procedure...), " HTTP/1.1\r\n"...)
	c.out = strconv.AppendInt(append(c.out, c.head...), int64(len(c.body)), 10)
	c.out = append(append(c.out, "\r\n\r\n"...), c.body...)
	if err := c.conn.SetDeadline(time.Now().Add(callTimeout)); err != nil {
		return err
	}
	if _, err := c.conn.Write(c.out); err != nil {
		return err
	}
	answer, err := http.ReadResponse(c.reader, nil)
	if err != nil {
		return err
	}
	c.answer.Reset()
	_, err = io.Copy(&c.answer, answer.Body)
	if closeErr := answer.Body.Close(); err == nil {
		err = closeErr
	}
	if err == nil && answer.StatusCode != http.StatusOK {
		err = fmt.Errorf("status %d: %.300s", answer.StatusCode, c.answer.Bytes())
	}
	return err
}
