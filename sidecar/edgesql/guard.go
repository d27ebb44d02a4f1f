package edgesql

import (
	"errors"
	"strings"

	"github.com/nearside-dev/nearside/internal/catalog"
	"github.com/nearside-dev/nearside/internal/sqlite"
)

// guard is the authorizer of a connection: it lets a statement read the replica's tables and notes which.
type guard struct {
	trusted bool // the connection is being set up
	tables  map[string]*catalog.Table
	foreign map[string]bool // tables that are there without being the replica's, in lower case

	denied *UnsupportedError
	read   []*catalog.Table
}

// ownTables are the only tables of SQLite's own that say the same everywhere.
var ownTables = map[string]bool{"json_each": true, "json_tree": true}

// foreignFunctions tell of the connection, the file or the process, or reach out of the database.
var foreignFunctions = map[string]bool{
	"changes": true, "total_changes": true, "last_insert_rowid": true, "sqlite_offset": true, "load_extension": true,
	"fts3_tokenizer": true, "readfile": true, "writefile": true, "edit": true, "sqlite_log": true,
}

// errDenied is what a denied statement fails with.
var errDenied = errors.New("not for the replica")

func (g *guard) authorize(action sqlite.Action, arg1, arg2, _, _ string) sqlite.Auth {
	if g.trusted {
		return sqlite.AuthOK
	}
	switch action {
	case sqlite.ActionSelect, sqlite.ActionRecursive:
		return sqlite.AuthOK
	case sqlite.ActionRead:
		return g.reads(arg1, arg2)
	case sqlite.ActionFunction:
		if name := strings.ToLower(arg2); foreignFunctions[name] {
			return g.deny(ReasonFunction, name)
		}
		return sqlite.AuthOK
	case sqlite.ActionPragma:
		return g.deny(ReasonSchema, "PRAGMA "+arg1)
	default:
		return g.deny(ReasonWrites, "")
	}
}

func (g *guard) reads(table, column string) sqlite.Auth {
	name := strings.ToLower(table)
	if t := g.tables[name]; t != nil {
		if i := t.ColumnByName(column); i >= 0 && t.Columns[i].Generated == catalog.GeneratedVirtual {
			return g.deny(ReasonGenerated, t.Name+"."+t.Columns[i].Name)
		}
		if n := len(g.read); n == 0 || g.read[n-1] != t {
			g.read = append(g.read, t)
		}
		return sqlite.AuthOK
	}
	switch {
	case strings.HasPrefix(name, "pragma_"), name == "sqlite_master", name == "sqlite_schema":
		return g.deny(ReasonSchema, name)
	case strings.HasPrefix(name, "sqlite_"), g.foreign[name]:
		return g.deny(ReasonTable, name)
	}
	return sqlite.AuthOK // a view, a common table expression, json_each
}

func (g *guard) deny(r Reason, detail string) sqlite.Auth {
	if g.denied == nil {
		g.denied = &UnsupportedError{Reason: r, Detail: detail, Err: errDenied}
	}
	return sqlite.AuthDeny
}

// take returns what was noted since the last take.
func (g *guard) take() (denied *UnsupportedError, read []*catalog.Table) {
	denied, read = g.denied, g.read
	g.denied, g.read = nil, nil
	return denied, read
}
