package server

import (
	"io"
	"net/http"
	"strconv"
	"time"

	"github.com/nearside-dev/nearside/internal/requestid"
)

// ExpressAnswer is an answer as it goes over the wire, head and body.
type ExpressAnswer struct {
	Bytes []byte
	Began time.Time // when the request was there
	// Request is the request's name, which the answer's head has. Contexts here do not: who needs it there puts it there.
	Request requestid.ID
	// Extra is lines of the head that EndHead appends: what is outside of who answers adds them.
	Extra []byte
	// Caller is whatever the check before whoever answers wants to find there at the next request.
	Caller any
	// Memo is whatever whoever answers on a connection wants to find there at the next request. It may be another's.
	Memo any

	conn       io.Writer
	closing    bool   // the connection ends with this answer
	date       []byte // header, of dateSecond
	dateSecond int64
}

// Flush sends what there is of an answer that is too large to be kept whole, and waits until the caller has taken it in.
func (a *ExpressAnswer) Flush() error {
	_, err := a.conn.Write(a.Bytes)
	a.Bytes = a.Bytes[:0]
	return err
}

// Abort ends the connection instead of the answer: its beginning was sent, and there will be no end.
func (a *ExpressAnswer) Abort() { a.Bytes, a.closing = a.Bytes[:0], true }

// EndHeadChunked is EndHead of an answer whose length is not known. Its body is chunks.
func (a *ExpressAnswer) EndHeadChunked() {
	a.endHead()
	a.Bytes = append(a.Bytes, "Transfer-Encoding: chunked\r\n\r\n"...)
}

// EndHead appends the headers that every answer has, with the length of its body, and the end of the head.
func (a *ExpressAnswer) EndHead(bodyBytes int) {
	a.endHead()
	a.Bytes = append(a.Bytes, "Content-Length: "...)
	a.Bytes = append(strconv.AppendInt(a.Bytes, int64(bodyBytes), 10), "\r\n\r\n"...)
}

func (a *ExpressAnswer) endHead() {
	if now := a.Began.Unix(); now != a.dateSecond || a.date == nil {
		a.date = append(a.Began.UTC().AppendFormat(append(a.date[:0], "Date: "...), http.TimeFormat), "\r\n"...)
		a.dateSecond = now
	}
	if a.closing {
		a.Bytes = append(a.Bytes, "Connection: close\r\n"...)
	}
	a.Bytes = append(a.Request.Append(append(a.Bytes, requestIDLine...)), "\r\n"...)
	a.Bytes = append(append(a.Bytes, a.Extra...), a.date...)
}

// requestIDLine begins the line of the request's id.
var requestIDLine = requestid.Header + ": "
