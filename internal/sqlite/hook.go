package sqlite

import (
	"fmt"
	"runtime/debug"

	"modernc.org/libc"
	sqlite3 "modernc.org/sqlite/lib"
)

// CallbackPanic is what Prepare, Step and Exec panic with after a callback panicked.
type CallbackPanic struct { //nolint:errname // it is raised, not returned
	Value any    // what the callback panicked with
	Stack []byte // where
}

// Error describes the panic with its stack, so that an uncaught one is legible.
func (p *CallbackPanic) Error() string {
	return fmt.Sprintf("panic in an SQLite callback: %v\n%s", p.Value, p.Stack)
}

// Unwrap returns the panic's value if it is an error.
func (p *CallbackPanic) Unwrap() error {
	err, _ := p.Value.(error)
	return err
}

// catch keeps the panic that a callback ended with, if any. It must be deferred directly.
func (c *Conn) catch() {
	if r := recover(); r != nil {
		c.keep(r)
	}
}

// catchAs is catch, and has the callback return SQLITE_ERROR.
func (c *Conn) catchAs(rc *int32) {
	if r := recover(); r != nil {
		c.keep(r)
		*rc = sqlite3.SQLITE_ERROR
	}
}

func (c *Conn) keep(panicked any) {
	c.caught = &CallbackPanic{Value: panicked, Stack: debug.Stack()}
	c.change.c = nil
	sqlite3.Xsqlite3_interrupt(c.tls, c.db) // a pre-update hook has no other way to stop the statement
}

// rethrow panics if a callback did.
func (c *Conn) rethrow() {
	if p := c.caught; p != nil {
		c.caught = nil
		panic(p)
	}
}

// The functions that SQLite calls back.
var (
	progressFunc   = cFunc(onProgress)
	authorizerFunc = cFunc(onAuthorize)
	preUpdateFunc  = cFunc(onPreUpdate)
)

// SetProgress has f called about every ops instructions of SQLite's virtual machine while a statement runs or is compiled;
// if it returns true the statement fails with CodeInterrupt, as by Interrupt. A nil f or ops < 1 clears it.
func (c *Conn) SetProgress(ops int, f func() bool) {
	if c.db == 0 {
		return
	}
	if f == nil || ops < 1 {
		c.progress = nil
		sqlite3.Xsqlite3_progress_handler(c.tls, c.db, 0, 0, 0)
		return
	}
	c.progress = f
	sqlite3.Xsqlite3_progress_handler(c.tls, c.db, int32(min(ops, 1<<30)), progressFunc, c.slot)
}

func onProgress(_ *libc.TLS, slot uintptr) (stop int32) {
	c := conns.get(slot)
	if c.caught != nil {
		return 1
	}
	defer c.catch()
	stop = 1 // unless f returns
	if !c.progress() {
		stop = 0
	}
	return stop
}

// SetAuthorizer has f asked for each action of a statement when it is compiled, which also happens when the schema or the
// connection's settings changed under a prepared one. An answer of AuthDeny fails it with CodeAuth. db is the database's
// name ("main"), trigger the innermost trigger or view the action comes from; what SQLite leaves out is "". A nil f clears
// the authorizer. Setting one has all prepared statements compiled, and so authorized, anew at their next run.
func (c *Conn) SetAuthorizer(f func(action Action, arg1, arg2, db, trigger string) Auth) {
	if c.db == 0 {
		return
	}
	c.authorizer = f
	if f == nil {
		sqlite3.Xsqlite3_set_authorizer(c.tls, c.db, 0, 0)
		return
	}
	sqlite3.Xsqlite3_set_authorizer(c.tls, c.db, authorizerFunc, c.slot)
}

func onAuthorize(_ *libc.TLS, slot uintptr, action int32, arg1, arg2, db, trigger uintptr) (answer int32) {
	c := conns.get(slot)
	if c.caught != nil {
		return sqlite3.SQLITE_DENY
	}
	defer c.catch()
	answer = sqlite3.SQLITE_DENY //nolint:wastedassign // it stays when f panics
	return int32(c.authorizer(Action(action), c.names.get(arg1), c.names.get(arg2), c.dbNames.get(db), c.names.get(trigger)))
}
