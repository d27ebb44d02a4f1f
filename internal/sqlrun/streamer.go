package sqlrun

import datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"

// Stream is where a Streamer sends its pieces.
type Stream interface {
	Send(*datav1.QueryStreamResponse) error
}

// Streamer is a Sink that sends an answer in pieces. The caller's flow control holds the read back: nothing is queued.
type Streamer struct {
	Stream Stream
	First  *datav1.Answer // goes with the first piece

	begun bool
	rows  []*datav1.Row
	size  int
}

var _ Sink = (*Streamer)(nil)

// Begun reports whether anything has been sent.
func (s *Streamer) Begun() bool { return s.begun }

// Columns implements Sink.
func (s *Streamer) Columns(columns []*datav1.Column) error {
	s.begun = true
	return s.Stream.Send(&datav1.QueryStreamResponse{Columns: columns, Answer: s.First})
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
	err := s.Stream.Send(&datav1.QueryStreamResponse{Rows: s.rows, Answer: a})
	s.rows, s.size = nil, 0
	return err
}
