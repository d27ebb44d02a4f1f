package sqlite

import (
	"unsafe"

	"modernc.org/libc"
	sqlite3 "modernc.org/sqlite/lib"
)

// ptr turns an address in SQLite's heap, which Go's collector neither moves nor frees, into a pointer. It reads the
// variable's bits instead of converting them: a conversion from uintptr is reserved for pointers into Go's own heap.
func ptr(p uintptr) unsafe.Pointer { return *(*unsafe.Pointer)(unsafe.Pointer(&p)) }

func load[T any](p uintptr) T { return *(*T)(ptr(p)) }

func store[T any](p uintptr, v T) { *(*T)(ptr(p)) = v }

// view returns the n bytes at p without copying them. It is valid as long as SQLite keeps them.
func view(p uintptr, n int) []byte {
	if p == 0 || n <= 0 {
		return nil
	}
	return unsafe.Slice((*byte)(ptr(p)), n)
}

// viewString returns the NUL-terminated bytes at p, without the NUL and without copying them; nil if p is NULL.
func viewString(p uintptr) []byte {
	if p == 0 {
		return nil
	}
	base, n := ptr(p), 0
	for *(*byte)(unsafe.Add(base, n)) != 0 {
		n++
	}
	return unsafe.Slice((*byte)(base), n)
}

// clone returns a copy of b, never nil: an empty blob is not NULL.
func clone(b []byte) []byte { return append([]byte{}, b...) }

// cFunc returns the C function pointer of a function. f must be a plain top-level function: a closure lives in Go's heap,
// where nothing would keep it alive, and so does the value of a generic function.
func cFunc[F any](f F) uintptr { return *(*uintptr)(unsafe.Pointer(&f)) }

var freeFunc = cFunc(sqlite3.Xsqlite3_free)

// transient is SQLITE_TRANSIENT: SQLite copies the bytes before the call returns.
const transient = ^uintptr(0)

// Layout of Conn.mem, a small block for results that SQLite returns through pointers.
const (
	memA    = 0
	memB    = 8
	memC    = 16
	memMain = 24 // "main\0"
	memSize = 32
)

// scratchSize is how much text fits into Conn.scratch. Larger texts get a block of their own for the call.
const scratchSize = 4 << 10

// allocate returns n bytes of SQLite's heap, or 0.
func allocate(tls *libc.TLS, n int) uintptr { return sqlite3.Xsqlite3_malloc64(tls, uint64(n)) }

// place copies b with a NUL after it to where SQLite may read it: the connection's scratch block, valid until the next
// call of place, or, if it does not fit, a new block (owned is true) that the caller frees or hands on.
func place[B ~string | ~[]byte](c *Conn, b B) (p uintptr, owned bool, err error) {
	p = c.scratch
	if len(b) >= scratchSize {
		if p = allocate(c.tls, len(b)+1); p == 0 {
			return 0, false, newError(CodeNoMem, "out of memory", -1)
		}
		owned = true
	}
	dst := view(p, len(b)+1)
	copy(dst, b)
	dst[len(b)] = 0
	return p, owned, nil
}

// maxNames bounds a nameCache; a schema with more names than this only costs more copies.
const maxNames = 1024

// nameCache turns C strings that come again and again into Go strings without allocating each time. It compares bytes, not
// addresses, because SQLite reuses the memory of a dropped table's name.
type nameCache struct {
	last string
	all  map[string]string
}

func (n *nameCache) get(p uintptr) string {
	b := viewString(p)
	if string(b) == n.last {
		return n.last
	}
	s, ok := n.all[string(b)]
	if !ok {
		if n.all == nil || len(n.all) >= maxNames {
			n.all = make(map[string]string)
		}
		s = string(b)
		n.all[s] = s
	}
	n.last = s
	return s
}
