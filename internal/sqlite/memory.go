package sqlite

import (
	"fmt"
	"sync"

	"modernc.org/libc"
	sqlite3 "modernc.org/sqlite/lib"
)

// countMemory has SQLite count its memory, which the library is compiled not to do and without which its limits do nothing.
// It must come before all else that SQLite does.
var countMemory = sync.OnceValue(func() error {
	tls := libc.NewTLS()
	defer tls.Close()
	list := tls.Alloc(8)
	defer tls.Free(8)
	store(list, int64(1))
	if rc := sqlite3.Xsqlite3_config(tls, sqlite3.SQLITE_CONFIG_MEMSTATUS, list); rc != sqlite3.SQLITE_OK {
		return fmt.Errorf("have SQLite count its memory: %w", newError(Code(rc), "it is in use already", -1))
	}
	return nil
})

// LimitMemory bounds the memory of all of the process's connections together, in bytes; 0 is without limit. Above soft the
// connections' page caches give pages back instead of growing; what would go above hard fails with CodeNoMem.
func LimitMemory(soft, hard int64) error {
	if err := countMemory(); err != nil {
		return err
	}
	tls := libc.NewTLS()
	defer tls.Close()
	sqlite3.Xsqlite3_hard_heap_limit64(tls, max(hard, 0)) // lowers soft with it
	sqlite3.Xsqlite3_soft_heap_limit64(tls, max(soft, 0))
	return nil
}

// MemoryUsed returns how much memory all connections together have, in bytes.
func (c *Conn) MemoryUsed() int64 { return sqlite3.Xsqlite3_memory_used(c.tls) }

// MemoryUsed is Conn.MemoryUsed for who has no connection.
func MemoryUsed() int64 {
	if countMemory() != nil {
		return 0
	}
	tls := libc.NewTLS()
	defer tls.Close()
	return sqlite3.Xsqlite3_memory_used(tls)
}
