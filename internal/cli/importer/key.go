package importer

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"io"

	"github.com/nearside-dev/nearside/internal/sqlsplit"
)

// keyChain makes the batches' idempotency keys. Each depends on all statements before it, so that two files that have a
// batch in common do not take one for the other's.
type keyChain struct {
	sum [sha256.Size]byte
}

func newKeyChain(database, again string) *keyChain {
	return &keyChain{sum: sha256.Sum256([]byte("nearside import\x00" + database + "\x00" + again))}
}

// next returns the key of a batch.
func (c *keyChain) next(statements []sqlsplit.Statement, deferred bool) string {
	h := sha256.New()
	h.Write(c.sum[:])
	if deferred {
		h.Write([]byte{1})
	} else {
		h.Write([]byte{0})
	}
	for _, s := range statements {
		var length [8]byte
		binary.BigEndian.PutUint64(length[:], uint64(len(s.Text)))
		h.Write(length[:])
		io.WriteString(h, s.Text) //nolint:errcheck // a hash takes everything
	}
	h.Sum(c.sum[:0])
	return "import-" + hex.EncodeToString(c.sum[:])
}
