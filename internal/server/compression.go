package server

import (
	"compress/gzip"
	"io"

	"connectrpc.com/connect"
	"github.com/klauspost/compress/zstd"
)

const (
	// maxRatio is how many times larger than what was sent a message may be, once it is larger than bombBytes.
	maxRatio  = 100
	bombBytes = 1 << 20

	// maxWindow is how far back zstd may look (RFC 9659 lets nobody ask for more), and ownWindow how far its own messages do.
	maxWindow = 8 << 20
	ownWindow = 256 << 10
)

// AcceptEncoding says which compressions a listener takes, the one that it likes best in front.
const AcceptEncoding = "gzip,zstd"

// Compression is one way to compress messages.
type Compression struct {
	Name         string
	Compressor   func() connect.Compressor
	Decompressor func() connect.Decompressor // fails with REQUEST_TOO_LARGE where a message is a bomb
}

// Compressions are those of AcceptEncoding, the one that is liked best behind.
func Compressions() []Compression {
	return []Compression{
		{"zstd", newZstdCompressor, newZstdDecompressor},
		{"gzip", newGzipCompressor, func() connect.Decompressor { return new(gunzip) }},
	}
}

func newGzipCompressor() connect.Compressor {
	// The default level costs more time than the bytes it saves are worth.
	w, _ := gzip.NewWriterLevel(io.Discard, gzip.BestSpeed) // fails for unknown levels only
	return w
}

func newZstdCompressor() connect.Compressor {
	w, err := zstd.NewWriter(io.Discard, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1),
		zstd.WithWindowSize(ownWindow), zstd.WithLowerEncoderMem(true), zstd.WithZeroFrames(true))
	if err != nil {
		panic(err) // the options are always the same
	}
	return w
}

// bomb counts what a message is unpacked to, and stops where it is a bomb.
type bomb struct {
	in  countingReader
	out int64
}

func (b *bomb) reset(r io.Reader) io.Reader {
	b.in, b.out = countingReader{Reader: r}, 0
	return &b.in
}

func (b *bomb) count(n int, err error) (int, error) {
	if b.out += int64(n); b.out > bombBytes && b.out > maxRatio*b.in.n {
		return 0, onWire(tooLarge(max(bombBytes, maxRatio*b.in.n)))
	}
	return n, err
}

// gunzip unpacks messages.
type gunzip struct {
	gzip.Reader

	bomb bomb
}

// Reset implements connect.Decompressor.
func (g *gunzip) Reset(r io.Reader) error { return g.Reader.Reset(g.bomb.reset(r)) }

// Read implements io.Reader.
func (g *gunzip) Read(p []byte) (int, error) { return g.bomb.count(g.Reader.Read(p)) }

// unzstd unpacks messages. It starts no goroutine.
type unzstd struct {
	decoder *zstd.Decoder
	bomb    bomb
}

func newZstdDecompressor() connect.Decompressor {
	d, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(maxWindow))
	if err != nil {
		panic(err) // the options are always the same
	}
	return &unzstd{decoder: d}
}

// Reset implements connect.Decompressor.
func (u *unzstd) Reset(r io.Reader) error { return u.decoder.Reset(u.bomb.reset(r)) }

// Read implements io.Reader.
func (u *unzstd) Read(p []byte) (int, error) { return u.bomb.count(u.decoder.Read(p)) }

// Close implements connect.Decompressor. It is Reset after it.
func (u *unzstd) Close() error { return u.decoder.Reset(nil) }

type countingReader struct {
	io.Reader

	n int64
}

// Read implements io.Reader.
func (r *countingReader) Read(p []byte) (int, error) {
	n, err := r.Reader.Read(p)
	r.n += int64(n)
	return n, err
}
