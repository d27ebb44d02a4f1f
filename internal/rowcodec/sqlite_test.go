package rowcodec_test

import (
	"database/sql"
	"errors"
	"testing"

	_ "modernc.org/sqlite"

	"github.com/nearside-dev/nearside/internal/value"
)

// openSQLite opens an empty database in memory.
func openSQLite(tb testing.TB) *sql.DB {
	tb.Helper()
	db, err := sql.Open("sqlite", ":memory:")
	if err != nil {
		tb.Fatal(err)
	}
	db.SetMaxOpenConns(1) // each connection would have a database of its own
	tb.Cleanup(func() {
		if err := db.Close(); err != nil {
			tb.Error(err)
		}
	})
	return db
}

func execSQL(tb testing.TB, db *sql.DB, query string, args ...any) {
	tb.Helper()
	if _, err := db.Exec(query, args...); err != nil {
		tb.Fatalf("%s: %v", query, err)
	}
}

// query returns all rows, each column of which must have its typeof() before it.
func query(tb testing.TB, db *sql.DB, statement string, args ...any) (rows [][]value.Value) {
	tb.Helper()
	r, err := db.Query(statement, args...)
	if err != nil {
		tb.Fatalf("%s: %v", statement, err)
	}
	columns, err := r.Columns()
	if err != nil {
		tb.Fatal(err)
	}
	for r.Next() {
		cells := make([]any, len(columns))
		targets := make([]any, len(columns))
		for i := range cells {
			targets[i] = &cells[i]
		}
		if err := r.Scan(targets...); err != nil {
			tb.Fatal(err)
		}
		var row []value.Value
		for i := 0; i < len(cells); i += 2 {
			row = append(row, fromDriver(tb, cells[i], cells[i+1]))
		}
		rows = append(rows, row)
	}
	if err := errors.Join(r.Err(), r.Close()); err != nil {
		tb.Fatalf("%s: %v", statement, err)
	}
	return rows
}

func bind(v value.Value) any {
	switch v.Kind() {
	case value.KindInteger:
		return v.Integer()
	case value.KindReal:
		return v.Real()
	case value.KindText:
		return v.Text()
	case value.KindBlob:
		return append([]byte{}, v.Bytes()...) // not nil: that is NULL to the driver
	default:
		return nil
	}
}

func bindAll(vals []value.Value) []any {
	args := make([]any, len(vals))
	for i, v := range vals {
		args[i] = bind(v)
	}
	return args
}

func fromDriver(tb testing.TB, kind, v any) value.Value {
	tb.Helper()
	switch x := v.(type) {
	case nil:
		if kind == "blob" {
			return value.Blob(nil)
		}
		return value.Null()
	case int64:
		return value.Integer(x)
	case float64:
		return value.Real(x)
	case string:
		return value.Text(x)
	case []byte:
		return value.Blob(x)
	default:
		tb.Fatalf("driver returned %T", v)
		return value.Null()
	}
}
