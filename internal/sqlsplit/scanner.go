package sqlsplit

import (
	"bytes"
	"fmt"
	"io"
)

// DefaultMaxStatementBytes is what Options.MaxStatementBytes is when it is not set.
const DefaultMaxStatementBytes = 64 << 20

const (
	firstBufferBytes = 64 << 10
	minReadBytes     = 4 << 10
	maxEmptyReads    = 100 // of a reader that returns neither bytes nor an error
)

var byteOrderMark = []byte("\xEF\xBB\xBF")

// Options are the settings of a Scanner. The zero value is ready to use.
type Options struct {
	// MaxStatementBytes bounds a statement from its first byte up to its ';',
	// and with it the memory of the Scanner. Default: DefaultMaxStatementBytes.
	MaxStatementBytes int
}

// Statement is one statement of the input.
type Statement struct {
	// Text is the statement as it stands in the input, from its first token to
	// its last: without the ';' and without the space and comments around it.
	// It is never empty.
	Text string
	// Line is the line Text begins on and EndLine the one it ends on. Lines are
	// counted from 1 and end with a line feed.
	Line, EndLine int
	// Offset is where Text begins in the input, in bytes. EndOffset is where
	// the input goes on after the statement: behind its ';', or at the end of
	// the input if it has none.
	Offset, EndOffset int64
}

// A TooLongError reports a statement beyond the limit. It is often one with a
// quote that was never closed.
type TooLongError struct {
	Line       int // where the statement begins
	LimitBytes int
}

func (e *TooLongError) Error() string {
	return fmt.Sprintf("statement at line %d is longer than %d bytes", e.Line, e.LimitBytes)
}

// Scanner cuts the text of a reader into statements. Text of comments alone is
// no statement, and neither is a lone ';'. A byte order mark at the start is
// skipped. The input need not be valid UTF-8; a NUL byte has no special meaning
// here, though it ends a statement's text for SQLite.
//
// A Scanner is for one goroutine.
type Scanner struct {
	in  io.Reader
	max int

	buffer []byte // from offset base on
	base   int64
	lexer  lexer

	line   int // the line of offset lineAt
	lineAt int64

	statement Statement
	started   bool
	ended     bool // nothing is left to read
	done      bool // nothing is left to return
	err       error
}

// NewScanner returns a Scanner over in. It reads ahead no further than a Read
// of in goes, and reads nothing before the first Scan.
func NewScanner(in io.Reader, options Options) *Scanner {
	limit := options.MaxStatementBytes
	if limit <= 0 {
		limit = DefaultMaxStatementBytes
	}
	return &Scanner{in: in, max: limit, lexer: newLexer(0), line: 1}
}

// Scan goes on to the next statement, which Statement then returns. It reads
// until the statement's ';' and not beyond, so that a statement typed at a
// terminal is there at once. Text without a ';' at the end of the input is a
// statement too. Scan returns false at the end of the input or at an error,
// which Err returns; the text in front of a read error is not handed out, for
// it may be half a statement.
func (s *Scanner) Scan() bool {
	if s.done {
		return false
	}
	for {
		if s.start() {
			switch ended := s.lexer.feed(s.buffer[s.lexer.pos-s.base:]); {
			case ended:
				return s.emit(s.lexer.pos - 1)
			case s.lexer.begin >= 0 && s.lexer.pos-s.lexer.begin > int64(s.max):
				return s.emit(s.lexer.pos) // for its error
			case s.ended:
				s.lexer.finish()
				return s.emit(s.lexer.pos)
			}
		}
		if err := s.read(); err != nil {
			return s.fail(err)
		}
	}
}

// Statement returns the statement of the last Scan that returned true.
func (s *Scanner) Statement() Statement { return s.statement }

// Err returns what ended the scan: nil at the end of the input, a *TooLongError,
// or an error that wraps the reader's.
func (s *Scanner) Err() error { return s.err }

// start skips the byte order mark. It returns false while there are too few
// bytes to tell.
func (s *Scanner) start() bool {
	if s.started {
		return true
	}
	if len(s.buffer) < len(byteOrderMark) && bytes.HasPrefix(byteOrderMark, s.buffer) && !s.ended {
		return false
	}
	if bytes.HasPrefix(s.buffer, byteOrderMark) {
		s.lexer = newLexer(int64(len(byteOrderMark)))
	}
	s.started = true
	return true
}

// emit makes the lexer's statement, which reaches up to the offset until, the
// current one. It returns false if there is none, or if it is too long.
func (s *Scanner) emit(until int64) bool {
	begin, end := s.lexer.begin, s.lexer.end
	if begin < 0 {
		s.done = true
		return false
	}
	line := s.countTo(begin)
	if until-begin > int64(s.max) {
		return s.fail(&TooLongError{Line: line, LimitBytes: s.max})
	}
	s.statement = Statement{
		Text:      string(s.buffer[begin-s.base : end-s.base]),
		Line:      line,
		EndLine:   s.countTo(end),
		Offset:    begin,
		EndOffset: s.lexer.pos,
	}
	s.lexer.next()
	return true
}

func (s *Scanner) fail(err error) bool {
	s.err, s.done, s.buffer = err, true, nil
	return false
}

// countTo moves the line count on to offset, which is in the buffer, and
// returns the line there.
func (s *Scanner) countTo(offset int64) int {
	if offset > s.lineAt {
		s.line += bytes.Count(s.buffer[s.lineAt-s.base:offset-s.base], []byte{'\n'})
		s.lineAt = offset
	}
	return s.line
}

// read adds what one Read returns to the buffer.
func (s *Scanner) read() error {
	s.makeRoom()
	for range maxEmptyReads {
		n, err := s.in.Read(s.buffer[len(s.buffer):cap(s.buffer)])
		s.buffer = s.buffer[:len(s.buffer)+n]
		switch {
		case err == io.EOF:
			s.ended = true
			return nil
		case err != nil:
			return fmt.Errorf("read statements near line %d: %w", s.countTo(s.lexer.pos), err)
		case n > 0:
			return nil
		}
	}
	return fmt.Errorf("read statements near line %d: %w", s.countTo(s.lexer.pos), io.ErrNoProgress)
}

// makeRoom sees to it that there is room to read into. Text that can no longer
// be part of a statement goes first; each byte is moved so only once, as the
// next move waits for another statement to end. The buffer stays below the
// limit of a statement and what one read may add.
func (s *Scanner) makeRoom() {
	if cap(s.buffer)-len(s.buffer) >= minReadBytes {
		return
	}
	if keep := s.lexer.keep(); keep > s.base && s.started {
		s.countTo(keep)
		n := copy(s.buffer, s.buffer[keep-s.base:])
		s.buffer, s.base = s.buffer[:n], keep
	}
	if cap(s.buffer)-len(s.buffer) >= minReadBytes {
		return
	}
	size := max(firstBufferBytes, min(2*cap(s.buffer), s.max+minReadBytes), len(s.buffer)+minReadBytes)
	grown := make([]byte, len(s.buffer), size)
	copy(grown, s.buffer)
	s.buffer = grown
}
