package business

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base32"
	"encoding/binary"
	"fmt"
	"strings"

	"google.golang.org/protobuf/proto"
)

// The beginnings of ids, so that people can tell them apart. Nothing reads them back: an id is opaque.
const (
	userPrefix  = "usr_"
	orderPrefix = "ord_"
)

// idBytes is how many bytes of an id are random or hashed.
const idBytes = 16

var idEncoding = base32.HexEncoding.WithPadding(base32.NoPadding)

// newID returns an id for what req makes: random without an idempotency key, a hash of the key and the request with one, so
// that a repeat of the same request has the same id.
func newID(prefix, key string, req proto.Message) (string, error) {
	var id [idBytes]byte
	if key == "" {
		rand.Read(id[:]) // it never fails
		return prefix + encodeID(id[:]), nil
	}
	body, err := proto.MarshalOptions{Deterministic: true}.Marshal(req)
	if err != nil {
		return "", fmt.Errorf("hash request: %w", err)
	}
	h := sha256.New()
	// The key's length stands before it, so that no other key and request give the same bytes.
	h.Write(binary.AppendUvarint([]byte(prefix), uint64(len(key))))
	h.Write([]byte(key))
	h.Write(body)
	return prefix + encodeID(h.Sum(nil)[:idBytes]), nil
}

func encodeID(b []byte) string { return strings.ToLower(idEncoding.EncodeToString(b)) }
