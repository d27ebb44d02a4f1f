package edgesql

import (
	"container/list"
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nearside-dev/nearside/internal/catalog"
	"github.com/nearside-dev/nearside/internal/policy"
	"github.com/nearside-dev/nearside/internal/sqlite"
	"github.com/nearside-dev/nearside/internal/sqlrun"
	"github.com/nearside-dev/nearside/internal/sqlsplit"
	"github.com/nearside-dev/nearside/sidecar/replica"
)

const (
	// maxStatements bounds the compiled statements that a connection keeps.
	maxStatements = 128
	// maxKeptText is the length of the longest text that is kept; longer statements are compiled each time.
	maxKeptText = 16 << 10
)

// moduleName is the module of the replica's tables.
const moduleName = "nearside_replica"

// conn is a connection with the schema of one catalog. One goroutine uses it at a time.
type conn struct {
	sql      *sqlite.Conn
	database uint32
	catalog  *catalog.Catalog
	maxSteps int64            // that a statement may take
	memory   int64            // that SQLite may have while statements run; 0 is without limit
	tables   []*table         // those declared, in the catalog's order
	plans    int              // of all tables
	left     map[string]error // tables that could not be declared, by name in lower case
	guard    guard
	images   *images // nil where none are kept
	filtered bool    // it is for statements with a view: its cursors look at each row

	twin    *twin // of the same schema; made when it is needed
	twinErr error // why it could not be made

	cached map[string]*list.Element // of *statement
	recent *list.List               // the most recently used first
	bytes  int                      // that they take

	// Of the statement that runs.
	ctx   context.Context //nolint:containedctx // the progress handler and long reads ask it
	begun time.Time
	snap  *replica.Snapshot
	// filter is the statement's view, and visible which rows of the tables that it may read; both nil unless filtered.
	filter  View
	visible map[uint32]*policy.Rows
	rows    uint64   // rows and index entries looked at
	run     uint64   // its number
	read    []*table // what it has read
	// steps is how many it has taken, as far as the progress handler was asked.
	steps int64
	// starved is whether it was stopped for want of memory.
	starved bool
	// closing is what closing a cursor failed with.
	closing error
}

// statement is a compiled SELECT.
type statement struct {
	*sqlite.Stmt

	text      string
	tables    []*catalog.Table // what it may read
	generated bool             // it reads virtual generated columns
	counts    *catalog.Table   // whose rows it counts, and nothing else
	// volatile says that it may answer something else from the same rows.
	volatile bool

	kept    bool      // in conn.cached
	bytes   int       // that it takes, once it is kept
	uses    int       // since it was compiled
	planned []float64 // rows of tables then
	checked uint64    // the version at which they were last looked at
}

// openConn returns a connection for a catalog; nil is that of an empty database.
func openConn(database uint32, cat *catalog.Catalog, memory, maxSteps int64) (c *conn, err error) {
	c = &conn{database: database, catalog: cat, memory: memory, maxSteps: maxSteps, cached: make(map[string]*list.Element), recent: list.New()}
	if c.sql, err = sqlite.Open(":memory:", sqlite.ReadWrite|sqlite.Create); err != nil {
		return nil, err
	}
	if err := c.setUp(); err != nil {
		return nil, fmt.Errorf("set up connection: %w", errors.Join(err, c.sql.Close()))
	}
	return c, nil
}

func (c *conn) setUp() error {
	c.guard = guard{trusted: true, tables: make(map[string]*catalog.Table), foreign: make(map[string]bool), told: make(map[string]bool)}
	c.sql.SetAuthorizer(c.guard.authorize)
	modules, _, err := c.sql.Prepare("SELECT name FROM pragma_module_list")
	if err != nil {
		return err
	}
	for {
		row, err := modules.Step()
		if err != nil {
			return errors.Join(err, modules.Finalize())
		}
		if !row {
			break
		}
		if name := strings.ToLower(modules.Column(0).Text()); !ownTables[name] {
			c.guard.foreign[name] = true
		}
	}
	if err := modules.Finalize(); err != nil {
		return err
	}
	if c.guard.steady, err = steadyFunctions(c.sql); err != nil {
		return err
	}
	if err := c.sql.CreateModule(moduleName, module{c}); err != nil {
		return err
	}
	if c.catalog != nil {
		if err := c.declare(); err != nil {
			return err
		}
	}
	if err := c.tellSchema(); err != nil {
		return err
	}
	if err := c.sql.Exec("PRAGMA temp_store = MEMORY"); err != nil { // no files; the memory is bounded
		return err
	}
	sqlrun.Limit(c.sql) // not sooner: a schema may be larger than a statement
	c.sql.SetProgress(sqlrun.ProgressOps, c.mustStop)
	c.guard.trusted = false
	return nil
}

// mustStop is the progress handler.
func (c *conn) mustStop() bool {
	if c.ctx == nil {
		return false
	}
	c.steps += sqlrun.ProgressOps
	c.starved = c.memory > 0 && c.sql.MemoryUsed() > c.memory
	return c.starved || c.steps > c.maxSteps || c.ctx.Err() != nil
}

// declare makes the catalog's tables and views. What cannot be made is left out: a statement that reads it does not compile
// here, and so is for the primary.
func (c *conn) declare() error {
	c.left = make(map[string]error)
	for i, t := range c.catalog.Tables {
		if i > 0 && i%declaredRows == 0 {
			if err := c.clearSchema(); err != nil {
				return err
			}
		}
		c.tables = append(c.tables, newTable(c, t, c.tableSQL(t)))
		err := c.tables[i].problem
		if err == nil {
			err = c.sql.Exec("CREATE VIRTUAL TABLE main." + quote(t.Name) + " USING " + moduleName + "(" + strconv.Itoa(i) + ")")
		}
		if err == nil {
			err = c.retype(t)
		}
		if name := catalog.Fold(t.Name); err != nil {
			c.left[name] = err
		} else {
			c.guard.tables[name] = t
		}
	}
	for _, o := range c.catalog.Objects {
		if o.Type == "view" {
			_ = c.sql.Exec(o.SQL) // one that does not compile here has no answer here
		}
	}
	return nil
}

// declaredRows is how many rows sqlite_schema may have while tables are made: SQLite reads all of them for each table.
const declaredRows = 64

// clearSchema deletes the rows of sqlite_schema, which SQLite does not look at again.
func (c *conn) clearSchema() error {
	if err := c.sql.Defensive(false); err != nil {
		return err
	}
	// Not RESET: that would have the rows read.
	if err := c.sql.Exec("PRAGMA writable_schema = ON; DELETE FROM main.sqlite_schema; PRAGMA writable_schema = OFF"); err != nil {
		return err
	}
	return c.sql.Defensive(true)
}

// tableSQL returns the CREATE TABLE statement of a table.
func (c *conn) tableSQL(t *catalog.Table) string {
	for i := range t.Columns {
		if t.Columns[i].Generated != catalog.GeneratedNo {
			return declaration(t) // SQLite wants no generated columns in a virtual table, only their names
		}
		if disguised(t.Columns[i].DeclaredType) != t.Columns[i].DeclaredType {
			return declaration(t)
		}
	}
	for _, o := range c.catalog.Objects {
		if o.Type == "table" && o.Name == t.Name {
			return o.SQL
		}
	}
	return declaration(t)
}

// declaration writes a CREATE TABLE statement with what matters to a statement that reads.
func declaration(t *catalog.Table) string {
	var parts []string
	for i := range t.Columns {
		c := &t.Columns[i]
		text := quote(c.Name) + " " + disguised(c.DeclaredType) + " COLLATE " + collationName(c.Collation)
		if c.NotNull {
			text += " NOT NULL"
		}
		parts = append(parts, text)
	}
	var options []string
	if t.Strict {
		options = append(options, "STRICT") // ANY has another affinity there
	}
	if t.WithoutRowid {
		var key []string
		for _, part := range t.Key {
			key = append(key, quote(t.Columns[part.Column].Name)+" COLLATE "+collationName(part.Collation))
		}
		parts = append(parts, "PRIMARY KEY ("+strings.Join(key, ", ")+")")
		options = append(options, "WITHOUT ROWID")
	}
	return "CREATE TABLE x (" + strings.Join(parts, ", ") + ") " + strings.Join(options, ", ")
}

// hiddenWord is what SQLite takes out of the types of a virtual table's columns, and then hides the column.
var hiddenWord = regexp.MustCompile(`(?i)hidden`)

// disguised returns a declared type without the word hidden: with another of the same length, which is no other affinity.
func disguised(declared string) string { return hiddenWord.ReplaceAllString(declared, "hiddeq") }

// retype gives the columns of a table that has been made the types that were disguised.
func (c *conn) retype(t *catalog.Table) error {
	for i := range t.Columns {
		column := &t.Columns[i]
		if disguised(column.DeclaredType) == column.DeclaredType {
			continue
		}
		if err := c.sql.Retype(t.Name, column.Name, column.DeclaredType); err != nil {
			return err
		}
	}
	return nil
}

func quote(name string) string { return `"` + strings.ReplaceAll(name, `"`, `""`) + `"` }

// lookup returns the compiled statement of a text, which must hold exactly one SELECT. The error is UnsupportedError or the
// caller's.
func (c *conn) lookup(text string) (*statement, error) {
	if e, ok := c.cached[text]; ok {
		s := e.Value.(*statement)
		if !c.outgrown(s) {
			c.recent.MoveToFront(e)
			return s, nil
		}
		if err := c.forget(e); err != nil {
			return nil, err
		}
	}
	if sqlsplit.Kind(text) == "PRAGMA" {
		return c.lookupPragma(text)
	}
	stmt, tail, noted, err := c.compile(text)
	if u, ok := errors.AsType[*UnsupportedError](err); ok && noted.denied == nil {
		return nil, u // a table's module says so
	}
	switch denied := noted.denied; {
	case denied != nil:
		return nil, denied
	case err != nil && isSyntaxError(err):
		return nil, sqlrun.Error(err)
	case sqlrun.IsInterrupt(err):
		return nil, err
	case err != nil:
		return nil, c.unsupported(err)
	}
	s, err := c.single(stmt, tail, text)
	if err != nil {
		return nil, err
	}
	slices.SortFunc(noted.read, func(a, b *catalog.Table) int { return int(a.ID) - int(b.ID) })
	s.tables, s.generated, s.volatile = slices.Compact(noted.read), noted.generated, noted.volatile
	for _, t := range s.tables {
		s.planned = append(s.planned, rowCount(c.snap, t))
	}
	s.counts = c.countedTable(text)
	if len(text) > maxKeptText {
		return s, nil
	}
	if s.bytes = s.StmtStatus(sqlite.StatusMemUsed, false); s.bytes > sqlrun.MaxKeptStatement {
		return s, nil
	}
	s.kept = true
	c.cached[text] = c.recent.PushFront(s)
	c.bytes += s.bytes
	for c.recent.Len() > maxStatements || c.bytes > sqlrun.MaxKeptStatements {
		if err := c.forget(c.recent.Back()); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// forget finalizes a statement that is kept.
func (c *conn) forget(e *list.Element) error {
	s := c.recent.Remove(e).(*statement)
	delete(c.cached, s.text)
	c.bytes -= s.bytes
	return s.Finalize()
}

// compile compiles a text, and returns what the guard noted of it.
func (c *conn) compile(text string) (stmt *sqlite.Stmt, tail string, noted footprint, err error) {
	c.guard.take() // of an earlier statement, compiled anew
	if shorter, ok := sqlsplit.DistinctLists(text, c.skippable); ok {
		stmt, tail, err = c.sql.Prepare(shorter)
		noted = c.guard.take()
		if err == nil && noted.denied == nil && stmt != nil && !named(stmt, distinctWord) {
			return stmt, tail, noted, nil
		}
		if stmt != nil {
			err = stmt.Finalize()
		}
		if sqlrun.IsInterrupt(err) {
			return nil, "", noted, err
		}
	}
	stmt, tail, err = c.sql.Prepare(text)
	return stmt, tail, c.guard.take(), err
}

// distinctWord is in the names of result columns that are named by a text with it.
const distinctWord = "DISTINCT"

func named(st *sqlite.Stmt, word string) bool {
	for i := range st.ColumnCount() {
		if strings.Contains(st.ColumnName(i), word) {
			return true
		}
	}
	return false
}

// single returns what was compiled of a text, if that was all of it, and only reads.
func (*conn) single(stmt *sqlite.Stmt, tail, text string) (*statement, error) {
	switch {
	case stmt == nil:
		return nil, sqlrun.NoStatement()
	case !sqlsplit.IsBlank(tail):
		return nil, errors.Join(sqlrun.SeveralStatements(), stmt.Finalize())
	case !stmt.ReadOnly() || stmt.IsExplain() != 0:
		return nil, errors.Join(&UnsupportedError{Reason: ReasonWrites}, stmt.Finalize())
	}
	return &statement{Stmt: stmt, text: text, volatile: true}, nil // until it is known what it reads
}

// release ends a statement's run.
func (c *conn) release(s *statement) error {
	if !s.kept {
		return s.Finalize()
	}
	err := s.Reset()
	s.ClearBindings()
	return err
}

// unsupported says why a statement that does not compile here is for the primary.
func (c *conn) unsupported(err error) *UnsupportedError {
	if e, ok := errors.AsType[*sqlite.Error](err); ok {
		if name, ok := strings.CutPrefix(e.Message, "no such table: "); ok {
			name = catalog.Fold(strings.TrimPrefix(name, "main."))
			if err := c.left[name]; err != nil {
				return &UnsupportedError{Reason: ReasonTable, Detail: name, Err: err}
			}
		}
		if name, ok := strings.CutPrefix(e.Message, "no such index: "); ok {
			return &UnsupportedError{Reason: ReasonIndexed, Detail: name, Err: err}
		}
	}
	return &UnsupportedError{Reason: ReasonError, Err: err}
}

// isSyntaxError reports whether a text is no SQL, whatever the schema.
func isSyntaxError(err error) bool {
	e, ok := errors.AsType[*sqlite.Error](err)
	return ok && e.Code == sqlite.CodeError && (strings.HasSuffix(e.Message, ": syntax error") ||
		e.Message == "incomplete input" || strings.HasPrefix(e.Message, "unrecognized token: "))
}

// checkPlanEvery is how many runs of a statement there are between two looks at whether its plan is still a good one. One that
// was planned for a table of fewer rows than smallTable is looked at after each commit: the table may be about to be filled.
const (
	checkPlanEvery = 16
	smallTable     = 1000
)

// outgrown reports whether the tables of a statement are of another size than when it was planned.
func (c *conn) outgrown(s *statement) bool {
	s.uses++
	version := c.snap.Version()
	if version == s.checked {
		return false
	}
	small := slices.ContainsFunc(s.planned, func(rows float64) bool { return rows < smallTable })
	if !small && s.uses%checkPlanEvery != 0 {
		return false
	}
	s.checked = version
	for i, t := range s.tables {
		if now, then := rowCount(c.snap, t)+100, s.planned[i]+100; now > 8*then || then > 8*now {
			return true
		}
	}
	return false
}

func (c *conn) close() error {
	if c.twin == nil {
		return c.sql.Close()
	}
	return errors.Join(c.sql.Close(), c.twin.close())
}
