package edgesql

import (
	"errors"
	"fmt"
	"strings"

	"github.com/nearside-dev/nearside/internal/catalog"
	"github.com/nearside-dev/nearside/internal/sqlite"
	"github.com/nearside-dev/nearside/internal/sqlrun"
	"github.com/nearside-dev/nearside/internal/value"
)

// twin is a database of SQLite's own, in memory, with the primary's schema and no rows. It answers what a PRAGMA tells of the
// schema, and computes virtual generated columns. It belongs to one conn, which makes it when it is first needed.
type twin struct {
	sql        *sqlite.Conn
	catalog    *catalog.Catalog
	trusted    bool   // what runs is not a caller's
	denied     string // the PRAGMA that was refused
	evaluators map[uint32]*evaluator
}

// toldPragmas tell of the schema or of SQLite itself, and nothing of a file or a connection.
var toldPragmas = map[string]bool{
	"collation_list": true, "compile_options": true, "foreign_key_list": true, "function_list": true, "index_info": true,
	"index_list": true, "index_xinfo": true, "table_info": true, "table_list": true, "table_xinfo": true,
}

// errSchemaUntold is why a catalog without the rows of sqlite_schema has no twin.
var errSchemaUntold = errors.New("the primary has not told the rows of sqlite_schema yet")

// openTwin makes the database of a catalog. mustStop is the progress handler.
func openTwin(cat *catalog.Catalog, mustStop func() bool) (n *twin, err error) {
	if !introspects(cat) {
		return nil, errSchemaUntold
	}
	n = &twin{catalog: cat, trusted: true, evaluators: make(map[uint32]*evaluator)}
	if n.sql, err = sqlite.Open(":memory:", sqlite.ReadWrite|sqlite.Create); err != nil {
		return nil, err
	}
	if err := n.create(); err != nil {
		return nil, fmt.Errorf("make the twin: %w", errors.Join(err, n.sql.Close()))
	}
	n.sql.SetAuthorizer(n.authorize)
	n.sql.SetProgress(sqlrun.ProgressOps, mustStop)
	n.trusted = false
	return n, nil
}

// introspects reports whether a catalog has what tells of the schema as the primary does.
func introspects(cat *catalog.Catalog) bool { return cat != nil && len(cat.Schema) > 0 }

// create makes the objects, and gives their rows in sqlite_schema the primary's rowids: SQLite reads a schema in their order, and
// the order in which it lists tables and indexes comes from that. Triggers no PRAGMA tells of, and they must not run.
func (n *twin) create() error {
	// Rows are those that the primary has, whatever it was that checked them.
	if err := n.sql.Exec("PRAGMA ignore_check_constraints = ON; PRAGMA temp_store = MEMORY"); err != nil {
		return err
	}
	for _, r := range n.catalog.Schema {
		var err error
		switch {
		case r.Type == "trigger", r.SQL == "": // an automatic index comes with its table
		case r.Name == "sqlite_sequence":
			// Only SQLite can make it, and keeps it.
			err = n.sql.Exec("CREATE TABLE _nearside_sequence (x INTEGER PRIMARY KEY AUTOINCREMENT); DROP TABLE _nearside_sequence")
		default:
			err = n.sql.Exec(r.SQL)
		}
		if err != nil {
			return fmt.Errorf("%s %s: %w", r.Type, r.Name, err)
		}
	}
	if err := n.sql.Defensive(false); err != nil {
		return err
	}
	if err := n.sql.Exec("PRAGMA writable_schema = ON; UPDATE main.sqlite_schema SET rowid = -rowid"); err != nil {
		return err
	}
	for _, r := range n.catalog.Schema {
		if r.Type == "trigger" {
			continue
		}
		err := exec(n.sql, "UPDATE main.sqlite_schema SET rowid = ?1 WHERE type = ?2 AND name = ?3 AND rowid < 0",
			value.Integer(r.Rowid), value.Text(r.Type), value.Text(r.Name))
		if err != nil {
			return err
		}
		if n.sql.Changes() != 1 {
			return fmt.Errorf("%s %s is not there", r.Type, r.Name)
		}
	}
	left := int64(0)
	err := query(n.sql, func(st *sqlite.Stmt) { left = st.ColumnInt64(0) }, "SELECT count(*) FROM main.sqlite_schema WHERE rowid < 0")
	if err == nil && left > 0 {
		err = fmt.Errorf("%d objects too many", left)
	}
	// The schema is read anew with this.
	return errors.Join(err, n.sql.Exec("PRAGMA writable_schema = RESET"), n.sql.Defensive(true))
}

// exec runs a statement that answers no rows.
func exec(c *sqlite.Conn, sql string, params ...value.Value) error {
	return query(c, func(*sqlite.Stmt) {}, sql, params...)
}

// query runs a statement and calls f on each of its rows.
func query(c *sqlite.Conn, f func(*sqlite.Stmt), sql string, params ...value.Value) (err error) {
	st, _, err := c.Prepare(sql)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, st.Finalize()) }()
	for i, p := range params {
		if err := st.BindValue(i+1, p); err != nil {
			return err
		}
	}
	for {
		row, err := st.Step()
		if err != nil || !row {
			return err
		}
		f(st)
	}
}

func (n *twin) authorize(action sqlite.Action, arg1, arg2, _, _ string) sqlite.Auth {
	if n.trusted {
		return sqlite.AuthOK
	}
	switch action {
	case sqlite.ActionPragma:
		if toldPragmas[strings.ToLower(arg1)] {
			return sqlite.AuthOK
		}
		if n.denied == "" {
			n.denied = arg1
		}
	// PRAGMA table_list compiles a query of each view to count its columns, as far as the authorizer lets it: here as at the primary.
	case sqlite.ActionSelect, sqlite.ActionRecursive:
		return sqlite.AuthOK
	case sqlite.ActionRead:
		if name := strings.ToLower(arg1); name != "sqlite_dbpage" && name != "dbstat" && !strings.HasPrefix(name, "_nearside_") {
			return sqlite.AuthOK
		}
	case sqlite.ActionFunction:
		if name := strings.ToLower(arg2); !foreignFunctions[name] || name == "changes" || name == "last_insert_rowid" || name == "sqlite_offset" {
			return sqlite.AuthOK
		}
	default:
	}
	return sqlite.AuthDeny
}

// pragma compiles a caller's PRAGMA.
func (n *twin) pragma(text string) (*sqlite.Stmt, string, error) {
	n.denied = ""
	stmt, tail, err := n.sql.Prepare(text)
	if n.denied != "" {
		return nil, "", &UnsupportedError{Reason: ReasonSchema, Detail: "PRAGMA " + n.denied, Err: errDenied}
	}
	return stmt, tail, err
}

// trust runs f with the authorizer off.
func (n *twin) trust(f func() error) error {
	n.trusted = true
	defer func() { n.trusted = false }()
	return f()
}

func (n *twin) close() error { return n.sql.Close() }
