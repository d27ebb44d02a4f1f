package engine

import (
	"strconv"

	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/internal/policy"
	"github.com/nearside-dev/nearside/internal/rowcodec"
	"github.com/nearside-dev/nearside/internal/rpcerr"
	"github.com/nearside-dev/nearside/internal/value"
)

// A transaction with a view changes no row that is not in it, and makes none. An Update or Delete of such a row finds nothing, as if
// the row were not there, and a precondition says the same. What a Put, an insert, a trigger or a cascade would do to one is seen
// when the transaction's rows are read back, and undoes it.

// RowView says which rows of a database's tables a transaction may see and change.
type RowView interface {
	// Table returns those of a table; nil is all. The error, which is the caller's, is that there are none.
	Table(name string) (*policy.Filter, error)
}

// rowsOf returns which rows of a table the transaction may see; nil is all.
func (x *execution) rowsOf(a *access) (*policy.Rows, error) {
	if x.view == nil {
		return nil, nil //nolint:nilnil // as documented
	}
	f, err := x.view.Table(a.table.Name)
	return f.Of(a.table), err
}

// within adds to a condition, whose parameters are given, that the row is one that the transaction may see.
func (x *execution) within(a *access, where string, params []*datav1.Value, offset int) (string, []*datav1.Value, error) {
	rows, err := x.rowsOf(a)
	if rows == nil || err != nil {
		return where, params, err
	}
	params = append([]*datav1.Value(nil), params...) // the request's
	some := rows.Conditions(func(column int, text string) {
		name := quote(a.table.Columns[column].Name)
		params = append(params, value.ToProto(value.Text(text)))
		where += " AND typeof(" + name + ") = 'text' AND " + name + " = ?" + strconv.Itoa(offset+len(params)) + " COLLATE BINARY"
	})
	if !some {
		where += " AND 0"
	}
	return where, params, nil
}

// errHidden is what a change of a row fails with that its transaction may not make. It says no more about the row: whether it is
// there, and what it has.
func errHidden(table string, f *policy.Filter) error {
	return rpcerr.New(datav1.ErrorReason_ERROR_REASON_PERMISSION_DENIED,
		"a row of table %s would be written that its writer may not see, before or afterwards", table).
		With("table", table).With("policy", "policy:"+f.Policy)
}

// checkView returns PERMISSION_DENIED where the transaction has changed a row that is not in its view, or was not.
func (x *execution) checkView() error {
	if x.view == nil {
		return nil
	}
	if x.schema {
		return errSQLInView.Clone()
	}
	for _, t := range x.w.capture.tables {
		if t.access == nil {
			return errSQLInView // its rows are not known one by one
		}
		table := t.access.table
		f, err := x.view.Table(table.Name)
		if err != nil {
			return err
		}
		rows := f.Of(table)
		if rows == nil {
			continue
		}
		var row rowcodec.Row
		has := func(key, stored []byte) (bool, error) {
			err := rowcodec.DecodeRowInto(&row, table, key, stored)
			return err == nil && rows.Has(row.Values), err
		}
		for _, r := range t.order {
			if r.existed {
				if ok, err := has(r.key, r.old); err != nil || !ok {
					return orHidden(err, table.Name, f)
				}
			}
			now, there, err := t.state(x.w.session, r, false)
			if err != nil {
				return err
			}
			if !there {
				continue
			}
			if ok, err := has(r.key, now); err != nil || !ok {
				return orHidden(err, table.Name, f)
			}
		}
	}
	return nil
}

func orHidden(err error, table string, f *policy.Filter) error {
	if err != nil {
		return err
	}
	return errHidden(table, f)
}

// errSQLInView is what SQL fails with in a transaction whose caller sees some rows only. The callers' guard says so before.
var errSQLInView = rpcerr.New(datav1.ErrorReason_ERROR_REASON_PERMISSION_DENIED, "SQL is not for who may see some rows only")
