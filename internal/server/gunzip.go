package server

import (
	"compress/gzip"
	"io"

	"connectrpc.com/connect"
)

const (
	// maxRatio is how many times larger than what was sent a message may be, once it is larger than bombBytes.
	maxRatio  = 100
	bombBytes = 1 << 20
)

// gunzip unpacks messages and stops where one is a bomb.
type gunzip struct {
	gzip.Reader

	in  countingReader
	out int64
}

var _ connect.Decompressor = (*gunzip)(nil)

// Reset implements connect.Decompressor.
func (g *gunzip) Reset(r io.Reader) error {
	g.in, g.out = countingReader{Reader: r}, 0
	return g.Reader.Reset(&g.in)
}

// Read implements io.Reader.
func (g *gunzip) Read(p []byte) (int, error) {
	n, err := g.Reader.Read(p)
	if g.out += int64(n); g.out > bombBytes && g.out > maxRatio*g.in.n {
		return 0, onWire(tooLarge(max(bombBytes, maxRatio*g.in.n)))
	}
	return n, err
}

type countingReader struct {
	io.Reader

	n int64
}

func (r *countingReader) Read(p []byte) (int, error) {
	n, err := r.Reader.Read(p)
	r.n += int64(n)
	return n, err
}
