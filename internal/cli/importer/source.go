package importer

import (
	"errors"
	"fmt"
	"io"
	"os"
)

// maxHeadBytes is how much of an input is remembered until its first statement shows what it is.
const maxHeadBytes = 1 << 20

// source is an input that can be read again from its beginning while only its head has been read.
type source struct {
	in   io.Reader
	head []byte // what was read of in; nil when that is forgotten
}

func newSource(in io.Reader) *source { return &source{in: in, head: []byte{}} }

// Read implements io.Reader.
func (s *source) Read(b []byte) (int, error) {
	n, err := s.in.Read(b)
	if s.head != nil {
		s.head = append(s.head, b[:n]...)
		if len(s.head) > maxHeadBytes {
			s.forget()
		}
	}
	return n, err
}

// forget says that the input will not be read again.
func (s *source) forget() { s.head = nil }

// file returns the whole input as something to seek in, and where in it the input begins: itself, or a copy in a temporary
// file. done ends its use.
func (s *source) file() (file io.ReadSeeker, start int64, done func() error, err error) {
	if seeker, ok := s.in.(io.ReadSeeker); ok {
		if start, err = seeker.Seek(-int64(len(s.head)), io.SeekCurrent); err == nil {
			return seeker, start, func() error { return nil }, nil
		} // a pipe
	}
	spool, err := os.CreateTemp("", "nearside-import-")
	if err != nil {
		return nil, 0, nil, fmt.Errorf("copy input: %w", err)
	}
	done = func() error { return errors.Join(spool.Close(), os.Remove(spool.Name())) }
	if _, err = spool.Write(s.head); err == nil {
		_, err = io.Copy(spool, s.in)
	}
	if err == nil {
		_, err = spool.Seek(0, io.SeekStart)
	}
	if err != nil {
		return nil, 0, nil, errors.Join(fmt.Errorf("copy input: %w", err), done())
	}
	return spool, 0, done, nil
}
