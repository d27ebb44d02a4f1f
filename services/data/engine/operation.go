package engine

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/internal/rpcerr"
	"github.com/nearside-dev/nearside/internal/value"
)

// Operation is one step of a transaction.
type Operation interface {
	run(x *execution) (*datav1.ResultSet, error)
}

// OperationOf returns the operation of a request.
func OperationOf(op *datav1.Operation) (Operation, error) {
	switch o := op.GetOperation().(type) {
	case *datav1.Operation_Statement:
		return StatementOperation(o.Statement), nil
	case *datav1.Operation_Put:
		return putOperation{o.Put}, nil
	case *datav1.Operation_Update:
		return updateOperation{o.Update}, nil
	case *datav1.Operation_Delete:
		return deleteOperation{o.Delete}, nil
	default:
		return nil, rpcerr.InvalidField("operation", "is required")
	}
}

// StatementOperation runs one statement.
func StatementOperation(st *datav1.Statement) Operation { return statementOperation{st} }

type statementOperation struct{ *datav1.Statement }

func (o statementOperation) run(x *execution) (*datav1.ResultSet, error) {
	if x.view != nil {
		return nil, errSQLInView.Clone()
	}
	return x.statement(o.Statement)
}

// SQL is StatementOperation for the process's own statements.
func SQL(text string, params ...value.Value) Operation {
	return statementOperation{&datav1.Statement{Sql: text, Parameters: value.ToProtos(params)}}
}

// InsertOperation inserts rows into one table with one compiled statement.
func InsertOperation(req *datav1.BatchInsertRequest) Operation { return insertOperation{req} }

type insertOperation struct{ req *datav1.BatchInsertRequest }

func (o insertOperation) run(x *execution) (*datav1.ResultSet, error) {
	t, err := x.table(o.req.GetTable())
	if err != nil {
		return nil, err
	}
	columns := o.req.GetColumns()
	if err := checkColumns(t.table, "columns", columns); err != nil {
		return nil, err
	}
	sql := insertSQL(t.table, columns)
	switch o.req.GetOnConflict() {
	case datav1.BatchInsertRequest_ON_CONFLICT_UNSPECIFIED:
	case datav1.BatchInsertRequest_ON_CONFLICT_IGNORE:
		sql += " ON CONFLICT DO NOTHING"
	case datav1.BatchInsertRequest_ON_CONFLICT_UPDATE:
		sql += upsertClause(t.table, columns)
	}
	total := &datav1.ResultSet{}
	for i, row := range o.req.GetRows() {
		if len(row.GetValues()) != len(columns) {
			return nil, rpcerr.InvalidField(fmt.Sprintf("rows[%d].values", i), "%d values for %d columns",
				len(row.GetValues()), len(columns))
		}
		rs, err := x.statement(&datav1.Statement{Sql: sql, Parameters: row.GetValues()})
		if err != nil {
			if e, ok := errors.AsType[*rpcerr.Error](err); ok {
				return nil, e.Clone().With("row", strconv.Itoa(i))
			}
			return nil, err
		}
		total.RowsAffected += rs.GetRowsAffected()
		total.LastInsertRowid = rs.LastInsertRowid
	}
	return total, nil
}

// ScriptOperation runs all statements of a text: a migration.
func ScriptOperation(name, text string) Operation { return scriptOperation{name, text} }

type scriptOperation struct{ name, text string }

func (o scriptOperation) run(x *execution) (*datav1.ResultSet, error) {
	if x.view != nil {
		return nil, errSQLInView.Clone()
	}
	rest := o.text
	total := &datav1.ResultSet{}
	for {
		begin := len(o.text) - len(rest)
		rs, tail, err := x.first(rest)
		if err != nil {
			if e, ok := errors.AsType[*rpcerr.Error](err); ok && e.Code() != 0 {
				line := 1 + strings.Count(o.text[:begin+leadingSpace(rest)], "\n")
				out := rpcerr.New(datav1.ErrorReason_ERROR_REASON_MIGRATION_FAILED, "migration %s, line %d: %w", o.name, line, e).
					With("migration", o.name).With("line", strconv.Itoa(line))
				if code := e.Metadata("sqlite_code"); code != "" {
					out = out.With("sqlite_code", code)
				}
				return nil, out
			}
			return nil, err
		}
		if rs == nil {
			return total, nil
		}
		total.RowsAffected += rs.GetRowsAffected()
		rest = tail
	}
}

func leadingSpace(s string) int { return len(s) - len(strings.TrimLeft(s, " \t\r\n;")) }
