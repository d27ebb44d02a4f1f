package replica

import (
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2"
	"google.golang.org/protobuf/proto"

	replicationv1 "github.com/nearside-dev/nearside/gen/nearside/replication/v1"
	"github.com/nearside-dev/nearside/internal/catalog"
	"github.com/nearside-dev/nearside/internal/rowcodec"
	"github.com/nearside-dev/nearside/sidecar/stamp"
)

// checksumSize is the size of a record's checksum: the first bytes of its SHA-256.
const checksumSize = 16

// stateFormat begins a stored state. Format 1 ends after the epochs. Before format 3 a tail has no old rows: it is not read
// any more. Before format 4 nothing is withheld.
const stateFormat = 4

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
	stamp          stamp.Stamp  // of the change that made it; 0 for what was there when the store was opened
	epochs         []epochStart // ascending; shared between states, so never written in place
	// moved has the generations of tables that were copied anew by themselves, diverged the tables, by id, that are not what
	// the primary has. Both are shared between states, so they are never written in place.
	moved    map[uint32]uint32
	diverged []uint32
	// withheld are the names, in lower case and ascending, of the tables that the region may not hold. Never written in place.
	withheld []string

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
	b = binary.AppendUvarint(b, uint64(len(a.moved)))
	for _, table := range slices.Sorted(maps.Keys(a.moved)) {
		b = binary.AppendUvarint(b, uint64(table))
		b = binary.AppendUvarint(b, uint64(a.moved[table]))
	}
	return appendNames(appendTables(b, a.diverged), a.withheld)
}

func appendNames(b []byte, names []string) []byte {
	b = binary.AppendUvarint(b, uint64(len(names)))
	for _, name := range names {
		b = append(binary.AppendUvarint(b, uint64(len(name))), name...)
	}
	return b
}

func appendTables(b []byte, tables []uint32) []byte {
	b = binary.AppendUvarint(b, uint64(len(tables)))
	for _, table := range tables {
		b = binary.AppendUvarint(b, uint64(table))
	}
	return b
}

// generationOf returns the generation of a table's keys.
func (a *applied) generationOf(table uint32) uint32 {
	if g, ok := a.moved[table]; ok {
		return g
	}
	return a.generation
}

// lastGeneration returns the greatest generation that keys have.
func (a *applied) lastGeneration() uint32 {
	last := a.generation
	for _, g := range a.moved {
		last = max(last, g)
	}
	return last
}

// diverge notes that a table is not what the primary has, and returns false if that is noted already.
func (a *applied) diverge(table uint32) bool {
	at, found := slices.BinarySearch(a.diverged, table)
	if !found {
		a.diverged = slices.Insert(slices.Clone(a.diverged), at, table)
	}
	return !found
}

// forget removes what is noted of a table.
func (a *applied) forget(table uint32) {
	if _, ok := a.moved[table]; ok {
		a.moved = maps.Clone(a.moved)
		delete(a.moved, table)
	}
	if at, ok := slices.BinarySearch(a.diverged, table); ok {
		a.diverged = slices.Delete(slices.Clone(a.diverged), at, at+1)
	}
}

func decodeApplied(b []byte) (*applied, error) {
	if len(b) < 2 || b[0] == 0 || b[0] > stateFormat {
		return nil, fmt.Errorf("%w: state of %d bytes", ErrCorrupt, len(b))
	}
	a := newApplied(0, problem(b[1]))
	format := b[0]
	r := numbers{b: b[2:]}
	number := r.next
	a.generation = uint32(number())
	a.epoch = uint32(number())
	a.version = number()
	r.checksum(&a.checksum)
	a.catalogVersion, a.tailFirst, a.tailBytes = number(), number(), number()
	epochs := number()
	if epochs > maxEpochs {
		return nil, fmt.Errorf("%w: state with %d epochs", ErrCorrupt, epochs)
	}
	for range epochs {
		a.epochs = append(a.epochs, epochStart{epoch: uint32(number()), start: number()})
	}
	if format > 1 {
		if n := number(); n > 0 {
			a.moved = make(map[uint32]uint32)
			for i := uint64(0); i < n && !r.bad; i++ {
				table := uint32(number())
				a.moved[table] = uint32(number())
			}
		}
		a.diverged = r.tables()
	}
	if format > 3 {
		a.withheld = r.names()
	}
	if r.bad || len(r.b) != 0 {
		return nil, fmt.Errorf("%w: state of another length", ErrCorrupt)
	}
	if format < 3 {
		a.tailFirst, a.tailBytes = a.version+1, 0
	}
	return a, nil
}

// numbers reads what encode wrote. After a failure it gives zeros.
type numbers struct {
	b   []byte
	bad bool
}

func (r *numbers) next() uint64 {
	n, size := binary.Uvarint(r.b)
	if r.bad = r.bad || size <= 0; r.bad {
		return 0
	}
	r.b = r.b[size:]
	return n
}

func (r *numbers) checksum(c *[checksumSize]byte) {
	if r.bad = r.bad || len(r.b) < checksumSize; r.bad {
		return
	}
	copy(c[:], r.b)
	r.b = r.b[checksumSize:]
}

func (r *numbers) tables() (tables []uint32) {
	n := r.next()
	for i := uint64(0); i < n && !r.bad; i++ {
		tables = append(tables, uint32(r.next()))
	}
	return tables
}

func (r *numbers) names() (names []string) {
	n := r.next()
	for i := uint64(0); i < n && !r.bad; i++ {
		names = append(names, string(r.bytes()))
	}
	return names
}

func (r *numbers) bytes() []byte {
	n := r.next()
	if r.bad = r.bad || n > uint64(len(r.b)); r.bad {
		return nil
	}
	b := r.b[:n:n]
	r.b = r.b[n:]
	return b
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
