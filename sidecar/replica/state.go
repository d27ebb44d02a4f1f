package replica

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2"
	"google.golang.org/protobuf/proto"

	replicationv1 "github.com/nearside-dev/nearside/gen/nearside/replication/v1"
	"github.com/nearside-dev/nearside/internal/catalog"
	"github.com/nearside-dev/nearside/internal/rowcodec"
)

// checksumSize is the size of a record's checksum: the first bytes of its SHA-256.
const checksumSize = 16

// stateFormat begins a stored state.
const stateFormat = 1

// maxEpochs is how many takeovers a copy remembers. Bookmarks older than that are lost.
const maxEpochs = 1024

// epochStart says where an epoch began: start is the last version of the epoch before.
type epochStart struct {
	epoch uint32
	start uint64
}

// applied is what a copy has. It is immutable once published.
type applied struct {
	generation     uint32 // of the keys in spaceData
	epoch          uint32
	version        uint64
	checksum       [checksumSize]byte
	catalogVersion uint64 // the version that wrote the catalog; 0 where there is none
	tailFirst      uint64 // the oldest record in the tail
	tailBytes      uint64
	problem        problem
	epochs         []epochStart // ascending; shared between states, so never written in place

	// catalog is nil until somebody needs it: a sidecar holds many databases and reads few. Successive states with the same
	// catalogVersion share it.
	catalog *atomic.Pointer[catalog.Catalog]
}

func newApplied(generation uint32, p problem) *applied {
	return &applied{
		generation: generation, problem: p, tailFirst: 1, catalog: new(atomic.Pointer[catalog.Catalog]),
	}
}

// reaches reports whether the copy is at least as fresh as a bookmark. ErrBookmarkLost means that it never will be.
func (a *applied) reaches(epoch uint32, version uint64) (bool, error) {
	if version == 0 {
		return true, nil // before the first commit there is nothing to lack, whatever the epoch
	}
	if epoch > a.epoch {
		return false, nil
	}
	if epoch == a.epoch {
		return version <= a.version, nil
	}
	for _, e := range a.epochs {
		if e.epoch > epoch {
			if version > e.start {
				return false, fmt.Errorf("%w: epoch %d version %d, epoch %d began after %d",
					ErrBookmarkLost, epoch, version, e.epoch, e.start)
			}
			return true, nil
		}
	}
	return false, fmt.Errorf("%w: epoch %d is not remembered", ErrBookmarkLost, epoch)
}

func (a *applied) encode() []byte {
	b := append(make([]byte, 0, 64+len(a.epochs)*8), stateFormat, byte(a.problem))
	b = binary.AppendUvarint(b, uint64(a.generation))
	b = binary.AppendUvarint(b, uint64(a.epoch))
	b = binary.AppendUvarint(b, a.version)
	b = append(b, a.checksum[:]...)
	b = binary.AppendUvarint(b, a.catalogVersion)
	b = binary.AppendUvarint(b, a.tailFirst)
	b = binary.AppendUvarint(b, a.tailBytes)
	b = binary.AppendUvarint(b, uint64(len(a.epochs)))
	for _, e := range a.epochs {
		b = binary.AppendUvarint(b, uint64(e.epoch))
		b = binary.AppendUvarint(b, e.start)
	}
	return b
}

func decodeApplied(b []byte) (*applied, error) {
	if len(b) < 2 || b[0] != stateFormat {
		return nil, fmt.Errorf("%w: state of %d bytes", ErrCorrupt, len(b))
	}
	a := newApplied(0, problem(b[1]))
	b = b[2:]
	ok := true
	number := func() uint64 {
		n, size := binary.Uvarint(b)
		if size <= 0 {
			ok = false
			return 0
		}
		b = b[size:]
		return n
	}
	a.generation = uint32(number())
	a.epoch = uint32(number())
	a.version = number()
	if len(b) < checksumSize {
		return nil, fmt.Errorf("%w: state ends in its checksum", ErrCorrupt)
	}
	copy(a.checksum[:], b)
	b = b[checksumSize:]
	a.catalogVersion, a.tailFirst, a.tailBytes = number(), number(), number()
	epochs := number()
	if epochs > maxEpochs {
		return nil, fmt.Errorf("%w: state with %d epochs", ErrCorrupt, epochs)
	}
	for range epochs {
		a.epochs = append(a.epochs, epochStart{epoch: uint32(number()), start: number()})
	}
	if !ok || len(b) != 0 {
		return nil, fmt.Errorf("%w: state of another length", ErrCorrupt)
	}
	return a, nil
}

// withEpoch returns the epochs after a record of the given epoch at version.
func withEpoch(epochs []epochStart, epoch uint32, version uint64) []epochStart {
	if n := len(epochs); n > 0 && epochs[n-1].epoch == epoch {
		return epochs
	}
	epochs = append(slices.Clip(epochs), epochStart{epoch: epoch, start: version - 1})
	return epochs[max(0, len(epochs)-maxEpochs):]
}

// readState reads a copy's state, or nil if there is none.
func readState(r pebble.Reader, database uint32) (*applied, error) {
	b, err := get(r, stateKey(database))
	if err != nil || b == nil {
		return nil, err
	}
	return decodeApplied(b)
}

// loadCatalog returns the catalog of the state, read through a reader that sees that very state. It is nil where the copy
// has none yet.
func (a *applied) loadCatalog(r pebble.Reader, database uint32) (*catalog.Catalog, error) {
	if cat := a.catalog.Load(); cat != nil || a.catalogVersion == 0 {
		return cat, nil
	}
	b, err := get(r, catalogKey(database))
	if err != nil {
		return nil, err
	}
	cat, err := decodeCatalog(b)
	if err != nil {
		return nil, fmt.Errorf("%w: catalog of database %d: %w", ErrCorrupt, database, err)
	}
	a.catalog.Store(cat)
	return cat, nil
}

func decodeCatalog(b []byte) (*catalog.Catalog, error) {
	var p replicationv1.Catalog
	if err := proto.Unmarshal(b, &p); err != nil {
		return nil, err
	}
	return catalog.FromProto(&p)
}

// tableSum is a table's set-sum and row count.
type tableSum struct {
	sum  rowcodec.Sum
	rows uint64
}

func (t tableSum) encode() []byte {
	b, _ := t.sum.AppendBinary(make([]byte, 0, 24)) // never fails
	return binary.BigEndian.AppendUint64(b, t.rows)
}

func readSum(r pebble.Reader, database, table uint32) (tableSum, error) {
	b, err := get(r, sumKey(database, table))
	if err != nil || b == nil {
		return tableSum{}, err
	}
	if len(b) != 24 {
		return tableSum{}, fmt.Errorf("%w: sum of %d bytes", ErrCorrupt, len(b))
	}
	sum, err := rowcodec.ParseSum(b[:16])
	return tableSum{sum: sum, rows: binary.BigEndian.Uint64(b[16:])}, err
}

// get returns a copy of a value, or nil if there is none. A value is never nil, though it may be empty.
func get(r pebble.Reader, key []byte) ([]byte, error) {
	v, closer, err := r.Get(key)
	if errors.Is(err, pebble.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read replica: %w", err)
	}
	value := append(make([]byte, 0, len(v)), v...)
	return value, closer.Close()
}
