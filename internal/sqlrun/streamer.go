package sqlrun

import (
	"context"
	"time"

	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
)

// Stream is where a Streamer sends its pieces.
type Stream interface {
	Send(*datav1.QueryStreamResponse) error
}

// Streamer is a Sink that sends an answer in pieces. The caller's flow control holds the read back: nothing is queued. Make it
// with NewStreamer.
type Streamer struct {
	First *datav1.Answer // goes with the first piece

	stream Stream
	begun  bool
	rows   []*datav1.Row
	size   int
	timer  *time.Timer // ends the statement; it stands while the caller is waited for, which the listener limits
}

var _ Sink = (*Streamer)(nil)

// NewStreamer returns a Streamer, and the context for its statement: it ends after StreamTimeout, and where the statement
// takes longer than StatementTimeout for a piece. Call stop at the end.
func NewStreamer(ctx context.Context, stream Stream) (s *Streamer, streaming context.Context, stop func()) {
	ctx, cancel := context.WithTimeout(ctx, StreamTimeout)
	ctx, expire := context.WithCancelCause(ctx)
	s = &Streamer{stream: stream, timer: time.AfterFunc(StatementTimeout, func() { expire(context.DeadlineExceeded) })}
	return s, ctx, func() {
		s.timer.Stop()
		expire(nil)
		cancel()
	}
}

// Begun reports whether anything has been sent.
func (s *Streamer) Begun() bool { return s.begun }

// Columns implements Sink.
func (s *Streamer) Columns(columns []*datav1.Column) error {
	return s.send(&datav1.QueryStreamResponse{Columns: columns, Answer: s.First})
}

// Row implements Sink.
func (s *Streamer) Row(row *datav1.Row, size int) error {
	s.rows = append(s.rows, row)
	if s.size += size; s.size < PieceBytes {
		return nil
	}
	return s.Flush(nil)
}

// Flush sends what is left, with the final answer at the end.
func (s *Streamer) Flush(a *datav1.Answer) error {
	err := s.send(&datav1.QueryStreamResponse{Rows: s.rows, Answer: a})
	s.rows, s.size = nil, 0
	return err
}

func (s *Streamer) send(piece *datav1.QueryStreamResponse) error {
	s.begun = true
	s.timer.Stop()
	defer s.timer.Reset(StatementTimeout)
	return s.stream.Send(piece)
}
