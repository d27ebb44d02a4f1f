// Package engine is one database at its primary: an SQLite file, the writer loop that is the only one to change it, and
// the connections that read it.
//
// A transaction's way: Transact → queue → writer loop → SAVEPOINT, statements, final rows read back, RELEASE → one log
// append with one fsync for the whole group → SQLite COMMIT → published → answered. The commit log is the truth; Open
// replays into SQLite what a crash kept from it. DESIGN.md beside this file and docs/adr/001-commit-order.md say why, and
// name every crash point.
//
// The package refuses to serve what it cannot vouch for: an SQLite file ahead of its log, or of another history.
package engine
