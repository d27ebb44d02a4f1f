// Package bookmark reads and writes bookmarks: the opaque text that an answer carries and that, given back, means "at
// least this fresh".
//
// A bookmark is 40 characters of lowercase base32hex for 25 bytes: a format byte, the database id, the epoch and the
// version (4, 4 and 8 bytes, big endian), and 8 bytes of HMAC-SHA256 over those before. The alphabet is in ASCII order,
// so bookmarks sort as text in the order of database, epoch and version. The MAC keeps callers from making up a version
// that every region would wait for; it hides nothing.
//
// What a bookmark means for a read is the caller's business: this package knows no epochs' starts and no databases.
package bookmark

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base32"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"strings"
	"sync"
)

// Errors that callers tell apart. The text of a refused bookmark is in none of them.
var (
	// ErrMalformed means that text is not a bookmark of this format.
	ErrMalformed = errors.New("malformed bookmark")
	// ErrForged means that text has a bookmark's form but was not made with this key.
	ErrForged = errors.New("forged bookmark")
	// ErrTooMany means that a list holds more bookmarks than allowed.
	ErrTooMany = errors.New("too many bookmarks")
)

const (
	format = 1

	signedSize = 1 + 4 + 4 + 8
	macSize    = 8
	size       = signedSize + macSize // a multiple of 5, so that no bits of the text are left over

	// TextLength is the length of a bookmark's text.
	TextLength = size / 5 * 8

	// MinKeyBytes is the least length of a Codec's key.
	MinKeyBytes = 16
)

// Bookmark is a point in the history of one database.
type Bookmark struct {
	DatabaseID uint32
	Epoch      uint32
	Version    uint64
}

// Codec signs and checks bookmarks with one key. It may be used concurrently.
type Codec struct {
	states sync.Pool // of *state
}

// state is what one call needs, kept together so that a call allocates nothing.
type state struct {
	mac hash.Hash
	buf [signedSize + sha256.Size]byte
}

const alphabet = "0123456789abcdefghijklmnopqrstuv"

var encoding = base32.NewEncoding(alphabet).WithPadding(base32.NoPadding)

// New returns a Codec with a secret key of at least MinKeyBytes, of which it keeps a copy. All nodes of a mesh share
// the key.
func New(key []byte) (*Codec, error) {
	if len(key) < MinKeyBytes {
		return nil, fmt.Errorf("bookmark key has %d bytes, want at least %d", len(key), MinKeyBytes)
	}
	key = append([]byte(nil), key...)
	return &Codec{states: sync.Pool{New: func() any {
		return &state{mac: hmac.New(sha256.New, key)}
	}}}, nil
}

// sign returns the bytes of b, in s.
func (s *state) sign(b Bookmark) []byte {
	out := append(s.buf[:0], format)
	out = binary.BigEndian.AppendUint32(out, b.DatabaseID)
	out = binary.BigEndian.AppendUint32(out, b.Epoch)
	out = binary.BigEndian.AppendUint64(out, b.Version)
	s.mac.Reset()
	_, _ = s.mac.Write(out) // a hash never fails
	return s.mac.Sum(out)[:size]
}

// Encode returns the text of b.
func (c *Codec) Encode(b Bookmark) string {
	var text [TextLength]byte
	return string(c.AppendEncode(text[:0], b))
}

// AppendEncode appends the text of b and returns the extended buffer.
func (c *Codec) AppendEncode(dst []byte, b Bookmark) []byte {
	s := c.states.Get().(*state)
	defer c.states.Put(s)
	return encoding.AppendEncode(dst, s.sign(b))
}

// Decode returns the bookmark that text is. It accepts exactly what Encode writes; anything else is ErrMalformed or, if
// only the MAC is wrong, ErrForged.
func (c *Codec) Decode(text string) (Bookmark, error) {
	raw, ok := decodeText(text)
	if !ok || raw[0] != format {
		return Bookmark{}, ErrMalformed
	}
	b := Bookmark{
		DatabaseID: binary.BigEndian.Uint32(raw[1:]),
		Epoch:      binary.BigEndian.Uint32(raw[5:]),
		Version:    binary.BigEndian.Uint64(raw[9:]),
	}
	s := c.states.Get().(*state)
	defer c.states.Put(s)
	if !hmac.Equal(s.sign(b), raw[:]) {
		return Bookmark{}, ErrForged
	}
	return b, nil
}

// DecodeList returns the bookmarks of text, a list separated by commas with spaces or tabs around them, as several
// header lines are joined. Empty text is an empty list; an empty element is ErrMalformed. More than limit elements are
// ErrTooMany. The first refused bookmark refuses the list, with the error that Decode gives. Several bookmarks may be
// of one database.
func (c *Codec) DecodeList(text string, limit int) ([]Bookmark, error) {
	text = strings.Trim(text, " \t")
	if text == "" {
		return nil, nil
	}
	n := strings.Count(text, ",") + 1
	if n > limit {
		return nil, fmt.Errorf("%w: %d, want at most %d", ErrTooMany, n, limit)
	}
	list := make([]Bookmark, 0, n)
	for element := range strings.SplitSeq(text, ",") {
		b, err := c.Decode(strings.Trim(element, " \t"))
		if err != nil {
			return nil, fmt.Errorf("bookmark %d of %d: %w", len(list)+1, n, err)
		}
		list = append(list, b)
	}
	return list, nil
}

// decodeText is written out because encoding/base32 allocates, and lets line breaks pass.
func decodeText(text string) (raw [size]byte, ok bool) {
	if len(text) != TextLength {
		return raw, false
	}
	for i := 0; i < size; i += 5 {
		var group uint64
		for _, c := range []byte(text[i/5*8 : i/5*8+8]) {
			switch {
			case c >= '0' && c <= '9':
				c -= '0'
			case c >= 'a' && c <= 'v':
				c -= 'a' - 10
			default:
				return raw, false
			}
			group = group<<5 | uint64(c)
		}
		raw[i] = byte(group >> 32)
		binary.BigEndian.PutUint32(raw[i+1:], uint32(group))
	}
	return raw, true
}
