// Package sqlrun holds what running a caller's statement has in common at the primary and in a region: its parameters, its
// columns and rows, its limits, and what its errors look like. Both must answer alike to the letter.
package sqlrun

import (
	"context"
	"errors"
	"strconv"
	"time"

	"connectrpc.com/connect"

	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/internal/budget"
	"github.com/nearside-dev/nearside/internal/rpcerr"
	"github.com/nearside-dev/nearside/internal/sqlite"
	"github.com/nearside-dev/nearside/internal/value"
)

const (
	// MaxResultBytes is how large an answer that is not streamed may be.
	MaxResultBytes = 64 << 20
	// StatementTimeout is how long a request may run, whatever its caller's deadline, and a stream's statement between two
	// pieces.
	StatementTimeout = 30 * time.Second
	// StreamTimeout is the time of a stream: as long as it runs, what it reads cannot be cleared away.
	StreamTimeout = 5 * time.Minute
	// PieceBytes is about how large the pieces of a streamed answer are.
	PieceBytes = 64 << 10
	// ProgressOps is how many virtual-machine steps pass between two looks at the caller's context: some 20 µs.
	ProgressOps = 2000
)

// Sink takes a query's answer. Columns is called once, then Row for each row with its size in bytes.
type Sink interface {
	Columns([]*datav1.Column) error
	Row(row *datav1.Row, size int) error
}

// Collector is a Sink that gathers an answer which is not streamed. The zero value is ready.
type Collector struct {
	Result datav1.ResultSet
	Meter  budget.Meter // of the call that is answered
}

var _ Sink = (*Collector)(nil)

// Columns implements Sink.
func (c *Collector) Columns(columns []*datav1.Column) error {
	c.Result.Columns = columns
	return nil
}

// Row implements Sink. More than MaxResultBytes is RESULT_TOO_LARGE, more than there is for all calls OVERLOADED.
func (c *Collector) Row(row *datav1.Row, size int) error {
	if err := Measure(&c.Meter, size); err != nil {
		return err
	}
	c.Result.Rows = append(c.Result.Rows, row)
	return nil
}

// NoStatement is the error of a text without one.
func NoStatement() *rpcerr.Error {
	return rpcerr.New(datav1.ErrorReason_ERROR_REASON_STATEMENT_INVALID, "the text holds no statement")
}

// SeveralStatements is the error of a text with more than one where there may be one.
func SeveralStatements() *rpcerr.Error {
	return rpcerr.New(datav1.ErrorReason_ERROR_REASON_STATEMENT_INVALID,
		"the text holds more than one statement: send them as operations of one Transact")
}

// Measure adds a row to an answer. More than MaxResultBytes is RESULT_TOO_LARGE, more than there is for all calls OVERLOADED.
func Measure(m *budget.Meter, size int) error {
	if m.Size()+size > MaxResultBytes {
		return ResultTooLarge()
	}
	return m.Add(size)
}

// ResultTooLarge is the error of an answer above MaxResultBytes.
func ResultTooLarge() error {
	limit := strconv.Itoa(MaxResultBytes)
	return rpcerr.New(datav1.ErrorReason_ERROR_REASON_RESULT_TOO_LARGE,
		"the answer is larger than %d bytes: use QueryStream", MaxResultBytes).With("limit", limit)
}

// Columns describes a statement's result columns.
func Columns(st *sqlite.Stmt) []*datav1.Column {
	n := st.ColumnCount()
	if n == 0 {
		return nil
	}
	columns := make([]*datav1.Column, n)
	for i := range columns {
		columns[i] = &datav1.Column{Name: st.ColumnName(i), DeclaredType: st.ColumnDeclType(i)}
	}
	return columns
}

// Row reads the row that a statement stands on, and its size in bytes.
func Row(st *sqlite.Stmt) (row *datav1.Row, size int) {
	values := make([]*datav1.Value, st.ColumnCount())
	for i := range values {
		v := st.Column(i)
		size += v.Size()
		values[i] = value.ToProto(v)
	}
	return &datav1.Row{Values: values}, size
}

// Bind sets a statement's parameters. Every parameter must be given, and none that the statement lacks: else FIELD_INVALID.
func Bind(p *sqlite.Stmt, st *datav1.Statement) error {
	positional, named := st.GetParameters(), st.GetNamedParameters()
	count := p.ParamCount()
	used := 0
	for i := 1; i <= count; i++ {
		name := ""
		if len(named) > 0 {
			name = p.ParamName(i)
		}
		v, ok := lookupNamed(named, name)
		switch {
		case ok:
			used++
		case name == "" || name[0] == '?':
			if i > len(positional) {
				return rpcerr.InvalidField("statement.parameters",
					"the statement has %d parameters, %d were given", count, len(positional))
			}
			v = positional[i-1]
		default:
			return rpcerr.InvalidField("statement.named_parameters", "%s is missing", name)
		}
		if err := p.BindValue(i, value.FromProto(v)); err != nil {
			return Error(err)
		}
	}
	if len(positional) > count {
		return rpcerr.InvalidField("statement.parameters",
			"the statement has %d parameters, %d were given", count, len(positional))
	}
	if used < len(named) {
		for name := range named {
			if !hasParameter(p, name) {
				return rpcerr.InvalidField("statement.named_parameters", "the statement has no parameter %q", name)
			}
		}
	}
	return nil
}

func lookupNamed(named map[string]*datav1.Value, name string) (*datav1.Value, bool) {
	if len(named) == 0 || name == "" {
		return nil, false
	}
	if v, ok := named[name]; ok {
		return v, true
	}
	v, ok := named[name[1:]]
	return v, ok
}

func hasParameter(p *sqlite.Stmt, name string) bool {
	for i := 1; i <= p.ParamCount(); i++ {
		if n := p.ParamName(i); n == name || n != "" && n[1:] == name {
			return true
		}
	}
	return false
}

// Error turns what SQLite said of a caller's statement into an error for the caller. Failures of the store itself stay
// unknown errors.
func Error(err error) error {
	e, ok := errors.AsType[*sqlite.Error](err)
	if !ok || rpcerr.ReasonOf(err) != datav1.ErrorReason_ERROR_REASON_UNSPECIFIED {
		return err
	}
	switch e.Code {
	case sqlite.CodeConstraint:
		out := rpcerr.New(datav1.ErrorReason_ERROR_REASON_CONSTRAINT_FAILED, "%w", err).With("sqlite_code", e.Name())
		if x := e.Extended; x == sqlite.CodeConstraintUnique || x == sqlite.CodeConstraintPrimaryKey ||
			x == sqlite.CodeConstraintRowID {
			out = out.WithCode(connect.CodeAlreadyExists)
		}
		return out
	case sqlite.CodeAuth:
		return rpcerr.New(datav1.ErrorReason_ERROR_REASON_STATEMENT_DENIED, "%w", err).With("sqlite_code", e.Name())
	case sqlite.CodeNoMem:
		return NoMemory(err)
	case sqlite.CodeTooBig:
		return rowTooLarge(err)
	case sqlite.CodeError, sqlite.CodeMismatch, sqlite.CodeRange, sqlite.CodeMisuse, sqlite.CodeReadOnly,
		sqlite.CodeLocked:
		out := rpcerr.New(datav1.ErrorReason_ERROR_REASON_STATEMENT_INVALID, "%w", err).With("sqlite_code", e.Name())
		if e.Offset >= 0 {
			out = out.With("offset", strconv.Itoa(e.Offset))
		}
		return out
	default:
		return err
	}
}

// IsInterrupt reports whether a statement was stopped.
func IsInterrupt(err error) bool {
	e, ok := errors.AsType[*sqlite.Error](err)
	return ok && e.Code == sqlite.CodeInterrupt
}

// Interrupted says that a statement was stopped because of its caller's context.
func Interrupted(ctx context.Context) error {
	err := rpcerr.New(datav1.ErrorReason_ERROR_REASON_STATEMENT_INTERRUPTED,
		"statement stopped, nothing was done: %w", context.Cause(ctx))
	if errors.Is(context.Cause(ctx), context.Canceled) {
		return err.WithCode(connect.CodeCanceled)
	}
	return err
}
