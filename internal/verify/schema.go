package verify

import (
	"crypto/sha256"
	"fmt"

	"google.golang.org/protobuf/proto"

	"github.com/nearside-dev/nearside/internal/catalog"
)

// CatalogChecksum identifies a schema; nil is that of a database without any.
func CatalogChecksum(c *catalog.Catalog) ([]byte, error) {
	if c == nil {
		c = &catalog.Catalog{}
	}
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(c.ToProto())
	if err != nil {
		return nil, fmt.Errorf("checksum of catalog: %w", err)
	}
	sum := sha256.Sum256(b)
	return sum[:], nil
}
