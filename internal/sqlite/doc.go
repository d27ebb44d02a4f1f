// Package sqlite is a thin binding on SQLite itself, as translated to Go, without database/sql between.
//
// It gives what the engine and edge SQL need and database/sql hides: statements the caller keeps, the pre-update hook,
// read-only virtual tables, the authorizer, the progress handler, deferred foreign-key status, extended codes with the byte offset of the error.
// Values are value.Value, copied on the way in and on the way out.
//
// A Conn and its statements belong to one goroutine at a time (SQLite is opened without mutexes); only Interrupt may be
// called from elsewhere. Connections share nothing in this package on a hot path: callbacks find their Conn in a table
// that is read without a lock.
//
// Callbacks (authorizer, progress handler, pre-update hook, virtual tables) run inside Prepare, Step or Exec on the caller's goroutine.
// They must not use the Conn or its statements. A panic in one is kept from unwinding through SQLite: the statement is
// stopped, and the panic is raised again as a *CallbackPanic when the call returns. runtime.Goexit (which testing's
// FailNow uses) cannot be caught and must not be called there.
//
// The package keeps no pool, no statement cache and no policy about transactions; those are the engine's.
package sqlite
