package sqlite

import (
	"errors"
	"fmt"
	"math"
	"strings"
	"sync"

	"github.com/nearside-dev/nearside/internal/value"
	"modernc.org/libc"
	sqlite3 "modernc.org/sqlite/lib"
)

// Module makes read-only virtual tables: CREATE VIRTUAL TABLE name USING module(arguments).
//
// All methods of a module, its tables and their cursors are called inside Prepare, Step, Reset, Finalize or Exec, on the
// caller's goroutine; they must not use the Conn. An error that one returns is what Prepare, Step or Exec returns, wrapped.
type Module interface {
	// Connect makes the table of the given arguments, as written.
	Connect(args []string) (VirtualTable, Declaration, error)
}

// Declaration says what a virtual table looks like.
type Declaration struct {
	// SQL is a CREATE TABLE statement; its constraints say nothing but what the key of a WITHOUT ROWID table is. A column whose
	// declared type has the word HIDDEN in it is one that SELECT * leaves out, and loses the word.
	SQL string
	// IntegerKey is the place of the column that is another name of the rowid, or -1.
	IntegerKey int
	// Columns is how many columns SQL declares: to be sure of it.
	Columns int
	// NotInViews is set where views and triggers may not read it, as they may not read SQLite's own functions of this kind.
	NotInViews bool
}

// VirtualTable is a table of a connection.
type VirtualTable interface {
	// BestIndex plans a way to read the table. ErrNoPlan means that there is none with these constraints.
	BestIndex(info *IndexInfo) error
	// Open returns a cursor, which is not on a row yet.
	Open() (VirtualCursor, error)
}

// VirtualCursor reads rows of a virtual table. Filter begins a read, as often as SQLite likes.
type VirtualCursor interface {
	// Filter goes to the first row of a plan. args are the values that the plan asked for. more is false where there is none.
	Filter(plan int, text string, args Args) (more bool, err error)
	// Next goes to the next row; more is false where there is none.
	Next() (more bool, err error)
	// Column sets a column of the present row.
	Column(r Result, i int) error
	// Rowid returns the present row's rowid.
	Rowid() (int64, error)
	// Close lets go of what the cursor has. A statement that has ended cannot fail any more: there is no error.
	Close()
}

// ErrNoPlan is returned by BestIndex where the constraints allow no plan.
var ErrNoPlan = errors.New("no plan with these constraints")

// maxModules is how many modules a connection can have.
const maxModules = 1 << 8

// What SQLite holds of a table and of a cursor: its own part, then ours. Tables and cursors are found through their
// connection: a table of all of them would need a lock whenever a statement opens a cursor.
type (
	tableHead struct {
		base sqlite3.Tsqlite3_vtab
		conn uintptr // handle in conns
		at   int     // in Conn.tables
		// table is SQLite's own description of it.
		table uintptr
	}
	cursorHead struct {
		base sqlite3.Tsqlite3_vtab_cursor
		conn uintptr
		at   int // in Conn.cursors
		eof  bool
	}
)

const (
	tableHeadSize  = 64
	cursorHeadSize = 32
)

// places is a list whose elements keep their places.
type places[T any] struct {
	all  []T
	free []int
}

func (p *places[T]) put(v T) int {
	if n := len(p.free); n > 0 {
		at := p.free[n-1]
		p.free = p.free[:n-1]
		p.all[at] = v
		return at
	}
	p.all = append(p.all, v)
	return len(p.all) - 1
}

func (p *places[T]) drop(at int) {
	var zero T
	p.all[at] = zero
	p.free = append(p.free, at)
}

// moduleTable is the sqlite3_module of all modules of the process, made when the first one is registered. functionTable is that
// of those which are tables themselves: they have no xCreate.
var (
	moduleTable   = sync.OnceValue(func() uintptr { return newModuleTable(cFunc(onCreate)) })
	functionTable = sync.OnceValue(func() uintptr { return newModuleTable(0) })
)

func newModuleTable(create uintptr) uintptr {
	tls := libc.NewTLS()
	defer tls.Close()
	m := sqlite3.Tsqlite3_module{
		FiVersion: 3,
		FxCreate:  create, FxConnect: cFunc(onConnect), FxBestIndex: cFunc(onBestIndex),
		FxDisconnect: cFunc(onDisconnect), FxDestroy: cFunc(onDestroy),
		FxOpen: cFunc(onOpen), FxClose: cFunc(onClose), FxFilter: cFunc(onFilter), FxNext: cFunc(onNext), FxEof: cFunc(onEOF),
		FxColumn: cFunc(onColumn), FxRowid: cFunc(onRowid),
	}
	p := libc.Xmalloc(tls, 256) // never freed
	if p != 0 {
		store(p, m)
	}
	return p
}

// CreateModule registers a module under a name. It stays until Close.
func (c *Conn) CreateModule(name string, m Module) error {
	return c.createModule(name, m, moduleTable())
}

// CreateTableFunction registers a module that is one table, of the module's name: its HIDDEN columns are the arguments of a
// function in a FROM clause. Connect is called without arguments. It hides SQLite's own table of that name.
func (c *Conn) CreateTableFunction(name string, m Module) error {
	return c.createModule(name, m, functionTable())
}

func (c *Conn) createModule(name string, m Module, module uintptr) error {
	if c.db == 0 {
		return errConnClosed
	}
	if module == 0 || len(c.modules) == maxModules || strings.IndexByte(name, 0) >= 0 {
		return newError(CodeError, fmt.Sprintf("cannot register module %q", name), -1)
	}
	p, owned, err := place(c, name)
	if err != nil {
		return err
	}
	if owned {
		defer sqlite3.Xsqlite3_free(c.tls, p)
	}
	c.modules = append(c.modules, m)
	return c.check(sqlite3.Xsqlite3_create_module_v2(c.tls, c.db, p, module, c.slot*maxModules+uintptr(len(c.modules)-1), 0))
}

// refuse notes the error of a table's method; SQLite gets only its text.
func (c *Conn) refuse(vtab uintptr, err error) int32 {
	c.tableErr = err
	if vtab != 0 {
		head := (*tableHead)(ptr(vtab))
		sqlite3.Xsqlite3_free(c.tls, head.base.FzErrMsg)
		head.base.FzErrMsg = c.cString(err.Error())
	}
	return sqlite3.SQLITE_ERROR
}

// cString returns a copy of s in SQLite's heap, or 0.
func (c *Conn) cString(s string) uintptr {
	p := allocate(c.tls, len(s)+1)
	if p != 0 {
		b := view(p, len(s)+1)
		copy(b, s)
		b[len(s)] = 0
	}
	return p
}

// takeTableErr returns err, or what a table's method failed with where that is its reason.
func (c *Conn) takeTableErr(err error) error {
	if e := c.tableErr; e != nil {
		c.tableErr = nil
		return fmt.Errorf("virtual table: %w", e)
	}
	return err
}

// onCreate is another function than onConnect, because a module for which they are the same is a table of its own.
func onCreate(tls *libc.TLS, db, aux uintptr, argc int32, argv, out, errMsg uintptr) int32 {
	return onConnect(tls, db, aux, argc, argv, out, errMsg)
}

func onConnect(_ *libc.TLS, _, aux uintptr, argc int32, argv, out, errMsg uintptr) (rc int32) {
	c := conns.get(aux / maxModules)
	if c.caught != nil {
		return sqlite3.SQLITE_ERROR
	}
	defer c.catchAs(&rc)
	p, err := c.connect(c.modules[aux%maxModules], argc, argv)
	if err != nil {
		store(errMsg, c.cString(err.Error()))
		c.tableErr = err
		return sqlite3.SQLITE_ERROR
	}
	store(out, p)
	return sqlite3.SQLITE_OK
}

func (c *Conn) connect(m Module, argc int32, argv uintptr) (uintptr, error) {
	var args []string
	for i := uintptr(3); i < uintptr(argc); i++ { // module, database and table come first
		args = append(args, string(viewString(load[uintptr](argv+8*i))))
	}
	table, declared, err := m.Connect(args)
	if err != nil {
		return 0, err
	}
	description, err := c.declare(declared)
	if err != nil {
		return 0, err
	}
	p := allocate(c.tls, tableHeadSize)
	if p == 0 {
		return 0, newError(CodeNoMem, "out of memory", -1)
	}
	store(p, tableHead{conn: c.slot, at: c.tables.put(table), table: description})
	return p, nil
}

// declare returns SQLite's description of the table.
func (c *Conn) declare(d Declaration) (uintptr, error) {
	sql := c.cString(d.SQL)
	if sql == 0 {
		return 0, newError(CodeNoMem, "out of memory", -1)
	}
	defer sqlite3.Xsqlite3_free(c.tls, sql)
	if err := c.check(sqlite3.Xsqlite3_declare_vtab(c.tls, c.db, sql)); err != nil {
		return 0, err
	}
	if d.NotInViews {
		return c.described(d)
	}
	// Views may read it though the schema is not trusted.
	if err := c.check(sqlite3.Xsqlite3_vtab_config(c.tls, c.db, sqlite3.SQLITE_VTAB_INNOCUOUS, 0)); err != nil {
		return 0, err
	}
	return c.described(d)
}

// described returns SQLite's description of the table that has been declared, and completes it.
func (c *Conn) described(d Declaration) (uintptr, error) {
	ctx := (*sqlite3.TVtabCtx)(ptr((*sqlite3.Tsqlite3)(ptr(c.db)).FpVtabCtx))
	table := (*sqlite3.TTable)(ptr(ctx.FpTab))
	if int(table.FnCol) != d.Columns || d.IntegerKey >= d.Columns {
		return 0, fmt.Errorf("declared %d columns, want %d", table.FnCol, d.Columns)
	}
	// With this a reference to the column is one to the rowid, as in an ordinary table: sqlite3_declare_vtab leaves it out.
	table.FiPKey = int16(max(d.IntegerKey, -1))
	return ctx.FpTab, nil
}

func onDisconnect(_ *libc.TLS, vtab uintptr) int32 {
	head := (*tableHead)(ptr(vtab))
	c := conns.get(head.conn)
	c.tables.drop(head.at)
	sqlite3.Xsqlite3_free(c.tls, vtab)
	return sqlite3.SQLITE_OK
}

func onDestroy(tls *libc.TLS, vtab uintptr) int32 { return onDisconnect(tls, vtab) }

func onBestIndex(_ *libc.TLS, vtab, info uintptr) (rc int32) {
	head := (*tableHead)(ptr(vtab))
	c := conns.get(head.conn)
	if c.caught != nil {
		return sqlite3.SQLITE_ERROR
	}
	defer c.catchAs(&rc)
	err := c.tables.all[head.at].BestIndex(&IndexInfo{
		c: c, p: info, table: head.table, raw: (*sqlite3.Tsqlite3_index_info)(ptr(info)),
	})
	switch {
	case errors.Is(err, ErrNoPlan):
		return sqlite3.SQLITE_CONSTRAINT
	case err != nil:
		return c.refuse(vtab, err)
	}
	return sqlite3.SQLITE_OK
}

func onOpen(_ *libc.TLS, vtab, out uintptr) (rc int32) {
	head := (*tableHead)(ptr(vtab))
	c := conns.get(head.conn)
	if c.caught != nil {
		return sqlite3.SQLITE_ERROR
	}
	defer c.catchAs(&rc)
	p := allocate(c.tls, cursorHeadSize)
	if p == 0 {
		return sqlite3.SQLITE_NOMEM
	}
	cursor, err := c.tables.all[head.at].Open()
	if err != nil {
		sqlite3.Xsqlite3_free(c.tls, p)
		return c.refuse(vtab, err)
	}
	store(p, cursorHead{conn: head.conn, at: c.cursors.put(cursor), eof: true})
	store(out, p)
	return sqlite3.SQLITE_OK
}

func onClose(_ *libc.TLS, cursor uintptr) int32 {
	head := (*cursorHead)(ptr(cursor))
	c, at := conns.get(head.conn), head.at
	closing := c.cursors.all[at]
	c.cursors.drop(at)
	sqlite3.Xsqlite3_free(c.tls, cursor)
	defer c.catch()
	closing.Close()
	return sqlite3.SQLITE_OK
}

func onFilter(_ *libc.TLS, cursor uintptr, plan int32, text uintptr, argc int32, argv uintptr) (rc int32) {
	head := (*cursorHead)(ptr(cursor))
	c := conns.get(head.conn)
	if c.caught != nil {
		return sqlite3.SQLITE_ERROR
	}
	defer c.catchAs(&rc)
	head.eof = true
	name := ""
	if text != 0 {
		name = c.names.get(text)
	}
	more, err := c.cursors.all[head.at].Filter(int(plan), name, Args{c: c, argv: argv, n: int(argc)})
	if err != nil {
		return c.refuse(head.base.FpVtab, err)
	}
	head.eof = !more
	return sqlite3.SQLITE_OK
}

func onNext(_ *libc.TLS, cursor uintptr) (rc int32) {
	head := (*cursorHead)(ptr(cursor))
	c := conns.get(head.conn)
	if c.caught != nil {
		return sqlite3.SQLITE_ERROR
	}
	defer c.catchAs(&rc)
	more, err := c.cursors.all[head.at].Next()
	if err != nil {
		return c.refuse(head.base.FpVtab, err)
	}
	head.eof = !more
	return sqlite3.SQLITE_OK
}

func onEOF(_ *libc.TLS, cursor uintptr) int32 {
	if (*cursorHead)(ptr(cursor)).eof {
		return 1
	}
	return 0
}

func onColumn(_ *libc.TLS, cursor, ctx uintptr, i int32) (rc int32) {
	head := (*cursorHead)(ptr(cursor))
	c := conns.get(head.conn)
	if c.caught != nil {
		return sqlite3.SQLITE_ERROR
	}
	defer c.catchAs(&rc)
	if err := c.cursors.all[head.at].Column(Result{c, ctx}, int(i)); err != nil {
		return c.refuse(head.base.FpVtab, err)
	}
	return sqlite3.SQLITE_OK
}

func onRowid(_ *libc.TLS, cursor, out uintptr) (rc int32) {
	head := (*cursorHead)(ptr(cursor))
	c := conns.get(head.conn)
	if c.caught != nil {
		return sqlite3.SQLITE_ERROR
	}
	defer c.catchAs(&rc)
	rowid, err := c.cursors.all[head.at].Rowid()
	if err != nil {
		return c.refuse(head.base.FpVtab, err)
	}
	store(out, rowid)
	return sqlite3.SQLITE_OK
}

// Result takes the value of a column. Where none is set the column is NULL. It is valid during the call.
type Result struct {
	c   *Conn
	ctx uintptr
}

// Value sets a copy of v.
func (r Result) Value(v value.Value) error {
	switch v.Kind() {
	case value.KindInteger:
		sqlite3.Xsqlite3_result_int64(r.c.tls, r.ctx, v.Integer())
	case value.KindReal:
		sqlite3.Xsqlite3_result_double(r.c.tls, r.ctx, v.Real())
	case value.KindText, value.KindBlob:
		p, owned, err := place(r.c, v.Bytes())
		if err != nil {
			return err
		}
		destroy := transient
		if owned {
			destroy = freeFunc // SQLite takes the block over
		}
		if size := uint64(len(v.Bytes())); v.Kind() == value.KindText {
			sqlite3.Xsqlite3_result_text64(r.c.tls, r.ctx, p, size, destroy, sqlite3.SQLITE_UTF8)
		} else {
			sqlite3.Xsqlite3_result_blob64(r.c.tls, r.ctx, p, size, destroy)
		}
	default:
		sqlite3.Xsqlite3_result_null(r.c.tls, r.ctx)
	}
	return nil
}

// Args are the values that a plan asked for, in the order of their places. They are valid during Filter.
type Args struct {
	c    *Conn
	argv uintptr
	n    int
}

// Len returns how many there are.
func (a Args) Len() int { return a.n }

// Value returns value i, counted from 0. It shares SQLite's memory: Clone it to keep it.
func (a Args) Value(i int) value.Value {
	return a.c.viewValue(load[uintptr](a.argv + 8*uintptr(i)))
}

// viewValue returns an sqlite3_value, which shares its memory.
func (c *Conn) viewValue(p uintptr) value.Value {
	switch sqlite3.Xsqlite3_value_type(c.tls, p) {
	case sqlite3.SQLITE_INTEGER:
		return value.Integer(sqlite3.Xsqlite3_value_int64(c.tls, p))
	case sqlite3.SQLITE_FLOAT:
		return value.Real(sqlite3.Xsqlite3_value_double(c.tls, p))
	case sqlite3.SQLITE_TEXT:
		b := sqlite3.Xsqlite3_value_text(c.tls, p)
		return value.TextBytes(view(b, int(sqlite3.Xsqlite3_value_bytes(c.tls, p))))
	case sqlite3.SQLITE_BLOB:
		b := sqlite3.Xsqlite3_value_blob(c.tls, p)
		return value.Blob(view(b, int(sqlite3.Xsqlite3_value_bytes(c.tls, p))))
	default:
		return value.Null()
	}
}

// In calls f with each of the values of an IN that the plan took whole, in no order, until f returns false. They share
// SQLite's memory during the call.
func (a Args) In(i int, f func(value.Value) bool) error {
	list, out := load[uintptr](a.argv+8*uintptr(i)), a.c.mem+memA
	rc := sqlite3.Xsqlite3_vtab_in_first(a.c.tls, list, out)
	for rc == sqlite3.SQLITE_OK && f(a.c.viewValue(load[uintptr](out))) {
		rc = sqlite3.Xsqlite3_vtab_in_next(a.c.tls, list, out)
	}
	if rc == sqlite3.SQLITE_DONE {
		return nil
	}
	return a.c.check(rc)
}

// maxPlan is the greatest number of a plan.
const maxPlan = math.MaxInt32
