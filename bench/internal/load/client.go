// Package load calls Connect methods from many clients at once and counts what comes back. The generator shares the machine
// with what it measures, so a client is one HTTP/1.1 connection and one goroutine, and does no more than it must.
package load

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http/httputil"
	"slices"
	"strconv"
	"time"

	"google.golang.org/protobuf/proto"
)

const (
	// callTimeout bounds one call. A measurement in which a call takes so long means nothing.
	callTimeout = 2 * time.Minute
	// deadlineEvery is how old the deadline of a connection gets: setting it for each call costs as much as encoding one.
	deadlineEvery = 10 * time.Second

	maxAnswerBytes = 256 << 20
)

// Client calls methods on a connection of its own, one at a time.
type Client struct {
	conn   net.Conn
	reader *bufio.Reader
	host   []byte // header, and whatever else all requests have
	head   []byte // of each call, from host to the length
	out    []byte
	body   []byte
	answer []byte

	deadlineSet time.Time
}

// Dial connects to host:port. Who is done with the client closes it.
func Dial(ctx context.Context, addr string) (*Client, error) {
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	c := &Client{conn: conn, reader: bufio.NewReaderSize(conn, 32<<10), host: []byte("Host: " + addr + "\r\n")}
	c.setHead()
	return c, nil
}

func (c *Client) setHead() {
	c.head = append(slices.Clip(c.host), "Content-Type: application/proto\r\nConnect-Protocol-Version: 1\r\nContent-Length: "...)
}

// Show has all calls from now on show a token; "" changes nothing.
func (c *Client) Show(token string) {
	if token != "" {
		c.host = append(c.host, "Authorization: Bearer "+token+"\r\n"...)
		c.setHead()
	}
}

// Close closes the connection.
func (c *Client) Close() {
	_ = c.conn.Close() // calls have said what they had to
}

// Call calls a procedure ("/package.Service/Method"). The answer is decoded into res unless that is nil. An answer that is
// not a success is an error with its text.
func (c *Client) Call(procedure string, req, res proto.Message) (err error) {
	if c.body, err = (proto.MarshalOptions{}).MarshalAppend(c.body[:0], req); err != nil {
		return fmt.Errorf("%s: %w", procedure, err)
	}
	answer, err := c.CallEncoded(procedure, c.body)
	if err != nil || res == nil {
		return err
	}
	if err := proto.Unmarshal(answer, res); err != nil {
		return fmt.Errorf("%s: %w", procedure, err)
	}
	return nil
}

// CallEncoded is Call of an encoded message. What it returns is valid until the next call.
func (c *Client) CallEncoded(procedure string, req []byte) (answer []byte, err error) {
	if err := c.roundTrip(procedure, req); err != nil {
		return nil, fmt.Errorf("%s: %w", procedure, err)
	}
	return c.answer, nil
}

func (c *Client) roundTrip(procedure string, body []byte) error {
	c.out = append(append(append(c.out[:0], "POST "...), procedure...), " HTTP/1.1\r\n"...)
	c.out = strconv.AppendInt(append(c.out, c.head...), int64(len(body)), 10)
	c.out = append(append(c.out, "\r\n\r\n"...), body...)
	return c.exchange()
}

// Get asks for a path. What it returns is valid until the next call; an answer that is not a success is an error with its text.
func (c *Client) Get(path string) (answer []byte, err error) {
	c.out = append(append(append(c.out[:0], "GET "...), path...), " HTTP/1.1\r\n"...)
	c.out = append(append(c.out, c.host...), "\r\n"...)
	if err := c.exchange(); err != nil {
		return nil, fmt.Errorf("GET %s: %w", path, err)
	}
	return c.answer, nil
}

// Post is Get of what is sent to a path.
func (c *Client) Post(path, contentType string, body []byte) (answer []byte, err error) {
	c.out = append(append(append(c.out[:0], "POST "...), path...), " HTTP/1.1\r\n"...)
	c.out = append(append(append(c.out, c.host...), "Content-Type: "...), contentType...)
	c.out = strconv.AppendInt(append(c.out, "\r\nContent-Length: "...), int64(len(body)), 10)
	c.out = append(append(c.out, "\r\n\r\n"...), body...)
	if err := c.exchange(); err != nil {
		return nil, fmt.Errorf("POST %s: %w", path, err)
	}
	return c.answer, nil
}

// exchange sends c.out and reads the answer.
func (c *Client) exchange() error {
	if now := time.Now(); now.Sub(c.deadlineSet) > deadlineEvery {
		if err := c.conn.SetDeadline(now.Add(callTimeout)); err != nil {
			return err
		}
		c.deadlineSet = now
	}
	if _, err := c.conn.Write(c.out); err != nil {
		return err
	}
	status, length, err := c.readHead()
	if err != nil {
		return err
	}
	if length >= 0 {
		c.answer = slices.Grow(c.answer[:0], length)[:length]
		_, err = io.ReadFull(c.reader, c.answer)
	} else {
		err = c.readChunks()
	}
	if err == nil && status != 200 {
		err = fmt.Errorf("status %d: %.300s", status, c.answer)
	}
	return err
}

// readHead reads the head of an answer. length is that of the body, -1 where it comes in chunks.
func (c *Client) readHead() (status, length int, err error) {
	line, err := c.line()
	if err != nil {
		return 0, 0, err
	}
	rest, ok := bytes.CutPrefix(line, []byte("HTTP/1.1 "))
	if !ok || len(rest) < 3 {
		return 0, 0, fmt.Errorf("status line %.100q", line)
	}
	if status, err = strconv.Atoi(string(rest[:3])); err != nil {
		return 0, 0, fmt.Errorf("status line %.100q", line)
	}
	length = -2
	for {
		if line, err = c.line(); err != nil {
			return 0, 0, err
		}
		if len(line) == 0 {
			break
		}
		if value, ok := cutHeader(line, "content-length:"); ok {
			if length, err = strconv.Atoi(string(value)); err != nil || length < 0 || length > maxAnswerBytes {
				return 0, 0, fmt.Errorf("header %.100q", line)
			}
		} else if value, ok := cutHeader(line, "transfer-encoding:"); ok && string(value) == "chunked" {
			length = -1
		}
	}
	if length == -2 {
		return 0, 0, errors.New("answer of unknown length")
	}
	return status, length, nil
}

// line reads a line of an answer's head. It is valid until the next read.
func (c *Client) line() ([]byte, error) {
	line, err := c.reader.ReadSlice('\n')
	if err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(line[:len(line)-1], []byte{'\r'}), nil
}

// cutHeader returns the value of a header line of a name, given in lower case.
func cutHeader(line []byte, name string) (value []byte, ok bool) {
	if len(line) < len(name) {
		return nil, false
	}
	for i := range len(name) {
		b := line[i]
		if 'A' <= b && b <= 'Z' {
			b += 'a' - 'A'
		}
		if b != name[i] {
			return nil, false
		}
	}
	return bytes.TrimSpace(line[len(name):]), true
}

func (c *Client) readChunks() error {
	buf := bytes.NewBuffer(c.answer[:0])
	_, err := io.Copy(buf, io.LimitReader(httputil.NewChunkedReader(c.reader), maxAnswerBytes))
	c.answer = buf.Bytes()
	if err != nil {
		return err
	}
	// The reader leaves the line after the last chunk; there are no trailers in these answers.
	line, err := c.line()
	if err == nil && len(line) > 0 {
		err = fmt.Errorf("trailer %.100q", line)
	}
	return err
}
