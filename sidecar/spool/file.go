package spool

import (
	"bufio"
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"google.golang.org/protobuf/proto"

	authv1 "github.com/nearside-dev/nearside/gen/nearside/auth/v1"
	"github.com/nearside-dev/nearside/internal/audit"
)

// A file is frames, each of them its length and its CRC-32C, four bytes each, and its content: first a header, then entries in
// the order of their numbers. What is torn at its end was never promised to anybody.
const (
	frameHead     = 8
	maxFrameBytes = 64 << 10
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// header says where in its spool a file begins.
type header struct {
	Spool    string `json:"spool"`
	Sequence uint64 `json:"sequence"` // of the last entry before the file's first
	Hash     string `json:"hash"`     // hexadecimal, of that entry
}

// place is where in a spool something is.
type place struct {
	spool    string
	sequence uint64
	hash     audit.Hash
}

func newPlace() place {
	var id [16]byte
	_, _ = rand.Read(id[:]) // never fails
	return place{spool: hex.EncodeToString(id[:])}
}

var errFrame = errors.New("not a frame")

func appendFrame(b, content []byte) []byte {
	b = binary.BigEndian.AppendUint32(b, uint32(len(content)))
	b = binary.BigEndian.AppendUint32(b, crc32.Checksum(content, castagnoli))
	return append(b, content...)
}

// readFrame returns the next frame's content; io.EOF at the end, errFrame where there is something else.
func readFrame(r io.Reader) ([]byte, error) {
	var head [frameHead]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		if errors.Is(err, io.ErrUnexpectedEOF) {
			return nil, errFrame
		}
		return nil, err
	}
	n := binary.BigEndian.Uint32(head[:])
	if n > maxFrameBytes {
		return nil, errFrame
	}
	content := make([]byte, n)
	switch _, err := io.ReadFull(r, content); {
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return nil, errFrame
	case err != nil:
		return nil, err
	case crc32.Checksum(content, castagnoli) != binary.BigEndian.Uint32(head[4:]):
		return nil, errFrame
	}
	return content, nil
}

func parseHeader(content []byte) (p place, err error) {
	var h header
	if json.Unmarshal(content, &h) != nil {
		return p, errFrame
	}
	id, err1 := hex.DecodeString(h.Spool)
	hash, err2 := hex.DecodeString(h.Hash)
	if err1 != nil || err2 != nil || len(id) != 16 || len(hash) != len(p.hash) || h.Sequence > 1<<62 {
		return p, errFrame
	}
	return place{spool: h.Spool, sequence: h.Sequence, hash: audit.Hash(hash)}, nil
}

func (p place) header() []byte {
	text, _ := json.Marshal(header{Spool: p.spool, Sequence: p.sequence, Hash: hex.EncodeToString(p.hash[:])}) //nolint:errchkjson // texts and a number
	return text
}

// file is the open file of a spool.
type file struct {
	*os.File

	begin   place // before its first entry
	end     place // at its last
	size    int64 // up to the end of the last whole frame
	entries int
}

// openFile opens a spool's file, or makes a new spool where there is none or where it cannot be read from its beginning.
func openFile(path string) (f *file, err error) {
	raw, err := os.OpenFile(path, os.O_RDWR, 0o600)
	if errors.Is(err, fs.ErrNotExist) {
		return createFile(path, newPlace(), nil)
	}
	if err != nil {
		return nil, err
	}
	f = &file{File: raw}
	if err := f.scan(); err != nil {
		_ = raw.Close() // it was only read
		if !errors.Is(err, errFrame) {
			return nil, fmt.Errorf("read audit spool: %w", err)
		}
		// The primary knows up to where it has it, and records that another one began.
		if err := os.Rename(path, path+".unreadable"); err != nil {
			return nil, err
		}
		return createFile(path, newPlace(), nil)
	}
	return f, raw.Truncate(f.size)
}

// scan finds out what a file has.
func (f *file) scan() error {
	r := bufio.NewReader(f.File)
	content, err := readFrame(r)
	if errors.Is(err, io.EOF) {
		return errFrame
	}
	if err == nil {
		f.begin, err = parseHeader(content)
	}
	if err != nil {
		return err
	}
	f.end, f.size = f.begin, int64(frameHead+len(content))
	for {
		content, err := readFrame(r)
		switch {
		case errors.Is(err, io.EOF), errors.Is(err, errFrame):
			return nil
		case err != nil:
			return err
		}
		e := &authv1.AuditEntry{}
		if proto.Unmarshal(content, e) != nil {
			return nil //nolint:nilerr // what follows was never promised either
		}
		f.end.sequence++
		f.end.hash = audit.SpoolHash(f.end.hash, f.end.sequence, e)
		f.size += int64(frameHead + len(content))
		f.entries++
	}
}

// createFile puts a file in the place of what is there, which it leaves alone if that fails.
func createFile(path string, begin place, entries []*authv1.AuditEntry) (*file, error) {
	raw, err := os.OpenFile(path+".new", os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, err
	}
	head := appendFrame(nil, begin.header())
	f := &file{File: raw, begin: begin, end: begin, size: int64(len(head))}
	_, err = raw.WriteAt(head, 0)
	if err == nil {
		err = f.append(entries)
	}
	if err == nil {
		err = raw.Sync()
	}
	if err == nil {
		err = os.Rename(path+".new", path)
	}
	if err == nil {
		err = syncDir(filepath.Dir(path))
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("write audit spool: %w", err), raw.Close())
	}
	return f, nil
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// append writes entries and returns when they are on the disk. Where that fails, there is nothing of them.
func (f *file) append(entries []*authv1.AuditEntry) error {
	if len(entries) == 0 {
		return nil
	}
	b, end, err := frames(entries, f.end)
	if err != nil {
		return err
	}
	if _, err = f.WriteAt(b, f.size); err == nil {
		err = f.Sync()
	}
	if err != nil {
		return errors.Join(fmt.Errorf("write audit spool: %w", err), f.Truncate(f.size))
	}
	f.end, f.size, f.entries = end, f.size+int64(len(b)), f.entries+len(entries)
	return nil
}

// frames returns entries as they are in a file behind a place, and the place at their end.
func frames(entries []*authv1.AuditEntry, end place) ([]byte, place, error) {
	var b []byte
	for _, e := range entries {
		content, err := proto.Marshal(e)
		if err != nil {
			return nil, end, err
		}
		if len(content) > maxFrameBytes {
			return nil, end, fmt.Errorf("an entry of %d bytes", len(content))
		}
		b = appendFrame(b, content)
		end.sequence++
		end.hash = audit.SpoolHash(end.hash, end.sequence, e)
	}
	return b, end, nil
}

// read returns up to so many entries from an offset on, and the offset behind them.
func (f *file) read(from int64, most int) (entries []*authv1.AuditEntry, to int64, err error) {
	r := bufio.NewReader(io.NewSectionReader(f.File, from, f.size-from))
	to = from
	for len(entries) < most {
		content, err := readFrame(r)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, 0, err
		}
		e := &authv1.AuditEntry{}
		if err := proto.Unmarshal(content, e); err != nil {
			return nil, 0, err
		}
		entries = append(entries, e)
		to += int64(frameHead + len(content))
	}
	return entries, to, nil
}

// headerBytes is how long the file's header is.
func (f *file) headerBytes() int64 { return int64(frameHead + len(f.begin.header())) }
