package engine

import (
	"encoding/binary"
	"maps"
	"slices"
	"strconv"
	"strings"

	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/internal/catalog"
	"github.com/nearside-dev/nearside/internal/rowcodec"
	"github.com/nearside-dev/nearside/internal/rpcerr"
	"github.com/nearside-dev/nearside/internal/sqlite"
	"github.com/nearside-dev/nearside/internal/value"
)

// Typed operations are written as SQL and run like any other statement, so triggers, constraints and capture are the same.

type putOperation struct{ *datav1.Put }

var (
	_ single = putOperation{}
	_ single = updateOperation{}
	_ single = deleteOperation{}
)

func (o putOperation) tableName() string    { return o.GetTable() }
func (o updateOperation) tableName() string { return o.GetTable() }
func (o deleteOperation) tableName() string { return o.GetTable() }

func (o putOperation) run(x *execution) (*datav1.ResultSet, error) {
	t, err := x.table(o.GetTable())
	if err != nil {
		return nil, err
	}
	columns, params := x.w.puts.sorted(o.GetValues())
	sql, err := t.put(columns)
	if err != nil {
		return nil, err
	}
	if o.GetPrecondition().GetCondition() != nil {
		key, err := putKey(t.table, o.GetValues())
		if err != nil {
			return nil, err
		}
		if err := x.require(o.GetPrecondition(), t, key); err != nil {
			return nil, err
		}
	}
	return x.statement(&datav1.Statement{Sql: sql, Parameters: params})
}

// putMemory is the memory of one Put's columns.
type putMemory struct {
	columns []string
	params  []*datav1.Value
}

// sorted returns the columns in order, and their values. Both are valid until the next call.
func (m *putMemory) sorted(values map[string]*datav1.Value) ([]string, []*datav1.Value) {
	m.columns, m.params = m.columns[:0], m.params[:0]
	for name := range values {
		m.columns = append(m.columns, name)
	}
	slices.Sort(m.columns)
	for _, name := range m.columns {
		m.params = append(m.params, values[name])
	}
	return m.columns, m.params
}

// maxPuts bounds the texts kept for one table: callers mostly put the same columns.
const maxPuts = 64

// put returns the SQL that puts a row of the columns. Errors are checkColumns'.
func (a *access) put(columns []string) (sql string, err error) {
	var buf [128]byte
	key := buf[:0]
	for _, name := range columns {
		key = append(binary.AppendUvarint(key, uint64(len(name))), name...)
	}
	if sql, ok := a.puts[string(key)]; ok {
		return sql, nil
	}
	if err := checkColumns(a.table, "put.values", columns); err != nil {
		return "", err
	}
	sql = insertSQL(a.table, columns) + upsertClause(a.table, columns)
	if a.puts == nil || len(a.puts) == maxPuts {
		a.puts = make(map[string]string)
	}
	a.puts[string(key)] = sql
	return sql, nil
}

// putKey finds the primary key among the values of a Put.
func putKey(t *catalog.Table, values map[string]*datav1.Value) (*datav1.Key, error) {
	parts, _ := t.PrimaryKey()
	key := &datav1.Key{}
	for _, part := range parts {
		if part.Column < 0 {
			return nil, rpcerr.InvalidField("put.precondition", "table %s has no primary key", t.Name)
		}
		found := false
		for name, v := range values {
			if t.ColumnByName(name) == part.Column {
				key.Values, found = append(key.Values, v), true
			}
		}
		if !found {
			return nil, rpcerr.InvalidField("put.values", "key column %s is missing", t.Columns[part.Column].Name)
		}
	}
	return key, nil
}

type updateOperation struct{ *datav1.Update }

func (o updateOperation) run(x *execution) (*datav1.ResultSet, error) {
	t, err := x.table(o.GetTable())
	if err != nil {
		return nil, err
	}
	if err := x.require(o.GetPrecondition(), t, o.GetKey()); err != nil {
		return nil, err
	}
	where, keyParams, err := t.where(o.GetKey(), len(o.GetSet()))
	if err != nil {
		return nil, err
	}
	if where, keyParams, err = x.within(t, where, keyParams, len(o.GetSet())); err != nil {
		return nil, err
	}
	columns := slices.Sorted(maps.Keys(o.GetSet()))
	if err := checkColumns(t.table, "update.set", columns); err != nil {
		return nil, err
	}
	sets := make([]string, len(columns))
	params := make([]*datav1.Value, len(columns))
	for i, name := range columns {
		sets[i] = quote(name) + " = ?" + strconv.Itoa(i+1)
		params[i] = o.GetSet()[name]
	}
	sql := "UPDATE main." + quote(t.table.Name) + " SET " + strings.Join(sets, ", ") + " WHERE " + where
	return x.statement(&datav1.Statement{Sql: sql, Parameters: slices.Concat(params, keyParams)})
}

type deleteOperation struct{ *datav1.Delete }

func (o deleteOperation) run(x *execution) (*datav1.ResultSet, error) {
	t, err := x.table(o.GetTable())
	if err != nil {
		return nil, err
	}
	if err := x.require(o.GetPrecondition(), t, o.GetKey()); err != nil {
		return nil, err
	}
	where, params, err := t.where(o.GetKey(), 0)
	if err != nil {
		return nil, err
	}
	if where, params, err = x.within(t, where, params, 0); err != nil {
		return nil, err
	}
	sql := "DELETE FROM main." + quote(t.table.Name) + " WHERE " + where
	return x.statement(&datav1.Statement{Sql: sql, Parameters: params})
}

func insertSQL(t *catalog.Table, columns []string) string {
	if len(columns) == 0 {
		return "INSERT INTO main." + quote(t.Name) + " DEFAULT VALUES"
	}
	quoted := make([]string, len(columns))
	for i, name := range columns {
		quoted[i] = quote(name)
	}
	return "INSERT INTO main." + quote(t.Name) + " (" + strings.Join(quoted, ", ") + ") VALUES (?" +
		strings.Repeat(", ?", len(columns)-1) + ")"
}

// upsertClause overwrites the given columns of the row with the same primary key; it is empty where the key is not given.
func upsertClause(t *catalog.Table, columns []string) string {
	parts, _ := t.PrimaryKey()
	var target []string
	isKey := make(map[int]bool)
	for _, part := range parts {
		if part.Column < 0 {
			return ""
		}
		isKey[part.Column] = true
		name := quote(t.Columns[part.Column].Name)
		// The rowid has no collation, and SQLite does not recognise it behind one.
		if part.Column != t.IntegerKey {
			name += " COLLATE " + collationName(part.Collation)
		}
		target = append(target, name)
	}
	given := 0
	var sets []string
	for _, name := range columns {
		if isKey[t.ColumnByName(name)] {
			given++
			continue
		}
		sets = append(sets, quote(name)+" = excluded."+quote(name))
	}
	if given < len(parts) {
		return ""
	}
	clause := " ON CONFLICT (" + strings.Join(target, ", ") + ") DO "
	if len(sets) == 0 {
		return clause + "NOTHING"
	}
	return clause + "UPDATE SET " + strings.Join(sets, ", ")
}

// where names the row of a key; its parameters are numbered after offset.
func (a *access) where(key *datav1.Key, offset int) (string, []*datav1.Value, error) {
	parts, _ := a.table.PrimaryKey()
	if name := key.GetIndex(); name != "" {
		ix := a.table.IndexByName(name)
		if ix == nil || !ix.Unique {
			return "", nil, rpcerr.New(datav1.ErrorReason_ERROR_REASON_INDEX_NOT_FOUND,
				"table %s has no unique index %s", a.table.Name, name).With("table", a.table.Name).With("index", name)
		}
		parts = ix.Parts
	}
	if len(key.GetValues()) != len(parts) {
		return "", nil, rpcerr.InvalidField("key.values", "%d values for a key of %d columns",
			len(key.GetValues()), len(parts))
	}
	terms := make([]string, len(parts))
	for i, part := range parts {
		name := rowidName(a.table)
		if part.Column >= 0 {
			name = quote(a.table.Columns[part.Column].Name)
		}
		terms[i] = name + " = ?" + strconv.Itoa(offset+i+1) + " COLLATE " + collationName(part.Collation)
	}
	return strings.Join(terms, " AND "), key.GetValues(), nil
}

// require checks a precondition against the row as the transaction sees it.
func (x *execution) require(p *datav1.Precondition, a *access, key *datav1.Key) error {
	if p.GetCondition() == nil {
		return nil
	}
	where, params, err := a.where(key, 0)
	if err != nil {
		return err
	}
	if where, params, err = x.within(a, where, params, 0); err != nil {
		return err
	}
	var row rowcodec.Row
	exists := false
	err = x.w.rows(a.readAll+" WHERE "+where, value.FromProtos(params), func(st *sqlite.Stmt) error {
		row, exists = a.row(st), true
		return nil
	})
	if err != nil {
		return statementError(err)
	}
	present := uint64(0)
	if exists {
		if present, err = x.rowVersion(a, rowcodec.AppendRowKey(nil, a.table, row)); err != nil {
			return err
		}
	}
	name, holds := "", false
	switch c := p.GetCondition().(type) {
	case *datav1.Precondition_IfVersion:
		name, holds = "if_version", exists && present == c.IfVersion
	case *datav1.Precondition_IfAbsent:
		name, holds = "if_absent", !exists
	case *datav1.Precondition_IfExists:
		name, holds = "if_exists", exists
	}
	if holds {
		return nil
	}
	return rpcerr.New(datav1.ErrorReason_ERROR_REASON_PRECONDITION_FAILED,
		"%s does not hold: the row's present version is %d", name, present).
		With("condition", name).With("present_version", strconv.FormatUint(present, 10))
}

// checkColumns returns COLUMN_NOT_FOUND for a name that is no column's, and FIELD_INVALID for a column that is given twice, as by names
// that differ in case: of two values SQLite would take either.
func checkColumns(t *catalog.Table, field string, names []string) error {
	given := make(map[int]bool, len(names))
	for _, name := range names {
		column := t.ColumnByName(name)
		switch {
		case column < 0:
			return noColumn(t.Name, name)
		case given[column]:
			return rpcerr.InvalidField(field, "column %s is given twice", t.Columns[column].Name)
		}
		given[column] = true
	}
	return nil
}

func noColumn(table, column string) error {
	return rpcerr.New(datav1.ErrorReason_ERROR_REASON_COLUMN_NOT_FOUND, "table %s has no column %s", table, column).
		With("table", table).With("column", column)
}
