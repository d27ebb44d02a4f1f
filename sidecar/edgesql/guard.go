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
	told    map[string]bool // those of them that say what the primary's do: of the schema

	// steady are the functions that answer the same to the same, in lower case.
	steady map[string]bool

	noted footprint
}

// footprint is what compiling a statement told about it.
type footprint struct {
	denied    *UnsupportedError // what was denied first
	read      []*catalog.Table
	generated bool // it reads virtual generated columns
	volatile  bool // it may answer something else from the same rows
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
		} else if !g.steady[name] {
			g.noted.volatile = true
		}
		return sqlite.AuthOK
	case sqlite.ActionPragma:
		return g.deny(ReasonSchema, "PRAGMA "+arg1)
	default:
		return g.deny(ReasonWrites, "")
	}
}

func (g *guard) reads(table, column string) sqlite.Auth {
	name := catalog.Fold(table)
	if t := g.tables[name]; t != nil {
		if i := t.ColumnByName(column); i >= 0 && t.Columns[i].Generated == catalog.GeneratedVirtual {
			g.noted.generated = true
		}
		if n := len(g.noted.read); n == 0 || g.noted.read[n-1] != t {
			g.noted.read = append(g.noted.read, t)
		}
		return sqlite.AuthOK
	}
	switch {
	case g.told[name]:
		g.noted.volatile = true // what some of them tell is more than the schema
		return sqlite.AuthOK
	case strings.HasPrefix(name, pragmaPrefix), name == "sqlite_master", name == "sqlite_schema":
		return g.deny(ReasonSchema, name)
	case strings.HasPrefix(name, "sqlite_"), g.foreign[name]:
		return g.deny(ReasonTable, name)
	}
	return sqlite.AuthOK // a view, a common table expression, json_each
}

func (g *guard) deny(r Reason, detail string) sqlite.Auth {
	if g.noted.denied == nil {
		g.noted.denied = &UnsupportedError{Reason: r, Detail: detail, Err: errDenied}
	}
	return sqlite.AuthDeny
}

// take returns what was noted since the last take.
func (g *guard) take() footprint {
	f := g.noted
	g.noted = footprint{}
	return f
}
