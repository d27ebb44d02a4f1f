package engine

import (
	"slices"
	"strings"

	"github.com/nearside-dev/nearside/internal/catalog"
	"github.com/nearside-dev/nearside/internal/sqlite"
)

// internalPrefix begins the names of the engine's own tables. No caller may read, write or make such a table.
const internalPrefix = "_nearside_"

// footprint is what compiling a statement told about it.
type footprint struct {
	schema    bool     // it changes the schema
	dropped   []string // tables it drops
	altered   []string // tables it alters
	sequences bool     // it may change sqlite_sequence: by name, or by an INSERT, even one that ignores its rows
	deferKeys bool     // it sets PRAGMA defer_foreign_keys
	denied    string   // the action that was refused
}

// remakes reports whether the statement can give a table's name, root page or columns to another one: what rows and tables
// are after it can be told only if it is looked at by itself.
func (f footprint) remakes() bool { return len(f.altered)+len(f.dropped) > 0 }

// alters reports whether it alters a table.
func (f footprint) alters(table string) bool {
	return slices.ContainsFunc(f.altered, func(name string) bool { return catalog.SameName(name, table) })
}

// guard is the authorizer of every connection. It refuses what no caller may do and notes what the writer must know.
type guard struct {
	trusted  bool // the engine's own statements
	readOnly bool
	noted    footprint
}

// readablePragmas tell about the schema and change nothing.
var readablePragmas = map[string]bool{
	"collation_list": true, "compile_options": true, "foreign_key_check": true, "foreign_key_list": true,
	"function_list": true, "index_info": true, "index_list": true, "index_xinfo": true, "integrity_check": true,
	"quick_check": true, "table_info": true, "table_list": true, "table_xinfo": true,
}

// deniedFunctions reach out of the database or tell one caller about another.
var deniedFunctions = map[string]bool{
	"load_extension": true, "fts3_tokenizer": true, "readfile": true, "writefile": true, "edit": true,
	"total_changes": true, "sqlite_log": true,
}

// deniedTables are there without having been made: one has the file's pages, all tables' among them, the other its layout.
var deniedTables = map[string]bool{"sqlite_dbpage": true, "dbstat": true}

func (g *guard) authorize(action sqlite.Action, arg1, arg2, db, _ string) sqlite.Auth {
	if g.trusted {
		return sqlite.AuthOK
	}
	switch action {
	case sqlite.ActionCreateTable, sqlite.ActionCreateView, sqlite.ActionCreateIndex, sqlite.ActionInsert:
		// CREATE TABLE temp.x has no action of its own; that of CREATE TRIGGER temp.x shows when it is written down.
		if strings.EqualFold(db, "temp") {
			return g.deny("TEMP " + arg1) // it would outlive its client
		}
	default:
	}
	switch action {
	case sqlite.ActionSelect, sqlite.ActionRecursive:
		return sqlite.AuthOK
	case sqlite.ActionRead:
		return g.table(arg1, false)
	case sqlite.ActionInsert:
		g.noted.sequences = true
		return g.table(arg1, true)
	case sqlite.ActionUpdate, sqlite.ActionDelete:
		return g.table(arg1, true)
	case sqlite.ActionFunction:
		if deniedFunctions[strings.ToLower(arg2)] {
			return g.deny("function " + arg2)
		}
		return sqlite.AuthOK
	case sqlite.ActionPragma:
		return g.pragma(strings.ToLower(arg1), arg2)
	case sqlite.ActionCreateTable, sqlite.ActionCreateView:
		g.noted.schema = true
		return g.table(arg1, true)
	case sqlite.ActionCreateIndex, sqlite.ActionCreateTrigger, sqlite.ActionDropIndex, sqlite.ActionDropTrigger:
		g.noted.schema = true
		return g.table(arg2, true)
	case sqlite.ActionDropTable, sqlite.ActionDropView:
		g.noted.schema = true
		g.noted.dropped = append(g.noted.dropped, arg1)
		return g.table(arg1, true)
	case sqlite.ActionAlterTable:
		g.noted.schema = true
		g.noted.altered = append(g.noted.altered, arg2)
		return g.table(arg2, true)
	case sqlite.ActionReindex:
		return sqlite.AuthOK
	default:
		return g.deny(actionNames[action])
	}
}

func (g *guard) table(name string, writes bool) sqlite.Auth {
	if len(name) >= len(internalPrefix) && strings.EqualFold(name[:len(internalPrefix)], internalPrefix) {
		return g.deny("table " + name)
	}
	if deniedTables[strings.ToLower(name)] {
		return g.deny("table " + name)
	}
	if writes && strings.EqualFold(name, "sqlite_sequence") {
		g.noted.sequences = true
	}
	return sqlite.AuthOK
}

func (g *guard) pragma(name, argument string) sqlite.Auth {
	if readablePragmas[name] {
		return sqlite.AuthOK
	}
	if name == "defer_foreign_keys" && !g.readOnly {
		g.noted.deferKeys = true
		return sqlite.AuthOK
	}
	if argument == "" {
		switch name {
		case "encoding", "foreign_keys", "user_version", "application_id", "schema_version", "page_count", "page_size":
			return sqlite.AuthOK // without an argument they only tell
		}
	}
	return g.deny("PRAGMA " + name)
}

func (g *guard) deny(what string) sqlite.Auth {
	if g.noted.denied == "" {
		g.noted.denied = what
	}
	return sqlite.AuthDeny
}

// take returns what was noted since the last take.
func (g *guard) take() footprint {
	f := g.noted
	g.noted = footprint{}
	return f
}

var actionNames = map[sqlite.Action]string{
	sqlite.ActionAttach: "ATTACH", sqlite.ActionDetach: "DETACH", sqlite.ActionTransaction: "BEGIN, COMMIT or ROLLBACK",
	sqlite.ActionSavepoint: "SAVEPOINT", sqlite.ActionAnalyze: "ANALYZE",
	sqlite.ActionCreateTempTable: "TEMP table", sqlite.ActionCreateTempIndex: "TEMP index",
	sqlite.ActionCreateTempTrigger: "TEMP trigger", sqlite.ActionCreateTempView: "TEMP view",
	sqlite.ActionDropTempTable: "TEMP table", sqlite.ActionDropTempIndex: "TEMP index",
	sqlite.ActionDropTempTrigger: "TEMP trigger", sqlite.ActionDropTempView: "TEMP view",
	sqlite.ActionCreateVTable: "virtual table", sqlite.ActionDropVTable: "virtual table",
}
