package sqlite

import (
	"errors"
	"fmt"
	"math"
	"strings"
	"sync"

	"modernc.org/libc"
	sqlite3 "modernc.org/sqlite/lib"
)

// OpenFlags says how to open a database file.
type OpenFlags int32

// Exactly one of ReadOnly and ReadWrite is required; Create goes with ReadWrite.
const (
	ReadOnly  OpenFlags = sqlite3.SQLITE_OPEN_READONLY
	ReadWrite OpenFlags = sqlite3.SQLITE_OPEN_READWRITE
	Create    OpenFlags = sqlite3.SQLITE_OPEN_CREATE // create the file if it is missing
)

// conns finds the Conn of a callback.
var conns slots[Conn]

// Conn is one connection to a database. Except for Interrupt, its methods and those of its statements must not be called
// from two goroutines at once. It must be closed; nothing else frees SQLite's memory.
type Conn struct {
	tls     *libc.TLS
	db      uintptr // sqlite3*, 0 once closed; written under mu
	slot    uintptr // handle in conns
	mem     uintptr // results passed through pointers, see memA
	scratch uintptr // text on its way into SQLite, see place
	stmts   *Stmt   // list of the statements not yet finalized

	progress   func() bool
	authorizer func(action Action, arg1, arg2, db, trigger string) Auth
	preUpdate  func(*PreUpdate)
	change     PreUpdate      // what preUpdate is called with
	hooked     bool           // the pre-update hook is installed
	caught     *CallbackPanic // raised by a callback, to be raised again
	dbNames    nameCache
	names      nameCache // tables, columns and what else the callbacks are told

	mu sync.Mutex // lets Interrupt run beside Close
}

// Version returns SQLite's version, such as "3.54.1".
func Version() string { return sqlite3.SQLITE_VERSION }

// Open opens the database file at path, which is a plain name, never a URI (":memory:" and "" are SQLite's private
// in-memory and temporary databases). Extended result codes and defensive mode are on, extension loading and trust in the
// schema's functions are off. Double-quoted strings keep SQLite's default, so that ordinary dumps work; so do foreign keys
// (off) and the busy timeout (none).
func Open(path string, flags OpenFlags) (*Conn, error) {
	if mode := flags &^ Create; mode != ReadOnly && mode != ReadWrite || flags == ReadOnly|Create {
		return nil, fmt.Errorf("open database %q: invalid flags %#x", path, int32(flags))
	}
	if strings.IndexByte(path, 0) >= 0 {
		return nil, fmt.Errorf("open database %q: the name contains a NUL byte", path)
	}
	if err := countMemory(); err != nil {
		return nil, fmt.Errorf("open database %q: %w", path, err)
	}
	c := &Conn{tls: libc.NewTLS()}
	if err := c.open(path, flags); err != nil {
		return nil, fmt.Errorf("open database %q: %w", path, errors.Join(err, c.Close()))
	}
	return c, nil
}

func (c *Conn) open(path string, flags OpenFlags) error {
	c.mem = allocate(c.tls, memSize)
	c.scratch = allocate(c.tls, scratchSize)
	if c.mem == 0 || c.scratch == 0 {
		return newError(CodeNoMem, "out of memory", -1)
	}
	copy(view(c.mem+memMain, len("main\x00")), "main\x00")
	var ok bool
	if c.slot, ok = conns.put(c); !ok {
		return newError(CodeNoMem, "too many open connections", -1)
	}

	p, owned, err := place(c, path)
	if err != nil {
		return err
	}
	store[uintptr](c.mem+memA, 0)
	rc := sqlite3.Xsqlite3_open_v2(c.tls, p, c.mem+memA,
		int32(flags)|sqlite3.SQLITE_OPEN_NOMUTEX|sqlite3.SQLITE_OPEN_PRIVATECACHE|sqlite3.SQLITE_OPEN_EXRESCODE, 0)
	if owned {
		sqlite3.Xsqlite3_free(c.tls, p)
	}
	if c.db = load[uintptr](c.mem + memA); c.db == 0 {
		return newError(Code(rc), "out of memory", -1)
	}
	if err := c.check(rc); err != nil {
		return err
	}
	for _, config := range []struct {
		option int32
		on     bool
	}{
		{sqlite3.SQLITE_DBCONFIG_DEFENSIVE, true},
		{sqlite3.SQLITE_DBCONFIG_ENABLE_LOAD_EXTENSION, false},
		{sqlite3.SQLITE_DBCONFIG_TRUSTED_SCHEMA, false},
		// An index on "x" where there is no column x would be one on the text 'x', and no longer be what its declaration says
		// once there is such a column.
		{sqlite3.SQLITE_DBCONFIG_DQS_DDL, false},
	} {
		if err := c.configure(config.option, config.on); err != nil {
			return err
		}
	}
	return nil
}

// Close finalizes the statements left, rolls back an open transaction and frees all of the connection's memory, whether or
// not it returns an error. Closing twice does nothing. Close must not be called from a callback.
func (c *Conn) Close() error {
	if c.tls == nil {
		return nil
	}
	var errs []error
	for c.stmts != nil {
		errs = append(errs, c.stmts.Finalize())
	}
	if c.db != 0 {
		c.mu.Lock()
		db := c.db
		rc := sqlite3.Xsqlite3_close(c.tls, db)
		if rc != sqlite3.SQLITE_OK {
			errs = append(errs, c.failure(rc))
			sqlite3.Xsqlite3_close_v2(c.tls, db)
		}
		c.db = 0
		c.mu.Unlock()
	}
	if c.slot != 0 {
		conns.drop(c.slot)
		c.slot = 0
	}
	sqlite3.Xsqlite3_free(c.tls, c.mem)
	sqlite3.Xsqlite3_free(c.tls, c.scratch)
	c.tls.Close()
	c.tls, c.mem, c.scratch = nil, 0, 0
	return errors.Join(errs...)
}

// Interrupt makes the statements now running fail with CodeInterrupt at their next check. It may be called from any
// goroutine, also after Close, when it does nothing. A statement that starts after the call while another is still running
// is interrupted too. Interrupting a statement that writes rolls back the whole transaction, savepoints included.
func (c *Conn) Interrupt() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.db != 0 {
		sqlite3.Xsqlite3_interrupt(nil, c.db) // only sets a flag
	}
}

// Prepare compiles the first statement of sql, for use many times over, and returns the text after it byte for byte. The
// statement is nil, without an error, if sql holds nothing but space, comments and semicolons.
func (c *Conn) Prepare(sql string) (stmt *Stmt, tail string, err error) {
	return c.prepare(sql, sqlite3.SQLITE_PREPARE_PERSISTENT)
}

func (c *Conn) prepare(sql string, flags uint32) (*Stmt, string, error) {
	if c.db == 0 {
		return nil, "", errConnClosed
	}
	if i := strings.IndexByte(sql, 0); i >= 0 {
		return nil, "", newError(CodeError, "SQL text contains a NUL byte", i)
	}
	if len(sql) >= math.MaxInt32 {
		return nil, "", newError(CodeTooBig, "SQL text is too long", -1)
	}
	p, owned, err := place(c, sql)
	if err != nil {
		return nil, "", err
	}
	store[uintptr](c.mem+memA, 0)
	store(c.mem+memB, p)
	rc := sqlite3.Xsqlite3_prepare_v3(c.tls, c.db, p, int32(len(sql)+1), flags, c.mem+memA, c.mem+memB)
	handle, used := load[uintptr](c.mem+memA), int(load[uintptr](c.mem+memB)-p)
	if owned {
		sqlite3.Xsqlite3_free(c.tls, p)
	}
	if c.caught != nil {
		sqlite3.Xsqlite3_finalize(c.tls, handle)
		c.rethrow()
	}
	if rc != sqlite3.SQLITE_OK {
		return nil, "", c.failure(rc)
	}
	if handle == 0 {
		return nil, sql[used:], nil
	}
	s := &Stmt{c: c, handle: handle, sql: sql[:used]}
	s.link()
	return s, sql[used:], nil
}

// Exec runs all statements of sql, discarding rows, and stops at the first that fails; an Error's Offset then counts from
// the start of sql.
func (c *Conn) Exec(sql string) error {
	for rest := sql; rest != ""; {
		stmt, tail, err := c.prepare(rest, 0)
		if err == nil && stmt != nil {
			err = stmt.runOnce()
		}
		if err != nil {
			if e, ok := errors.AsType[*Error](err); ok && e.Offset >= 0 {
				e.Offset += len(sql) - len(rest)
			}
			return err
		}
		rest = tail
	}
	return nil
}
