package client

import (
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"math"
	"reflect"
	"strings"
	"time"
	"unicode/utf8"

	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
)

// Value returns a Go value as the database stores it:
//
//   - nil and nil pointers are NULL; other pointers are what they point to;
//   - bool is the integer 0 or 1; integers are integers, floats are reals (NaN is NULL);
//   - string is text, []byte and named types of it are a blob;
//   - time.Time is text in RFC 3339, in UTC, with nine digits of a second, so that texts sort as times do;
//   - a driver.Valuer is what it says; a *datav1.Value is itself.
//
// Everything else, and an unsigned integer beyond an int64, is an error.
func Value(v any) (*datav1.Value, error) {
	switch v := v.(type) {
	case nil:
		return &datav1.Value{}, nil
	case *datav1.Value:
		return v, nil
	case time.Time:
		return text(v.UTC().Format(timeFormat)), nil
	case driver.Valuer:
		if r := reflect.ValueOf(v); r.Kind() == reflect.Pointer && r.IsNil() {
			return &datav1.Value{}, nil
		}
		inner, err := v.Value()
		if err != nil {
			return nil, err
		}
		if _, again := inner.(driver.Valuer); again {
			return nil, fmt.Errorf("%T gives another driver.Valuer", v)
		}
		return Value(inner)
	}
	return reflected(reflect.ValueOf(v))
}

// timeFormat is RFC 3339 with a fixed number of digits.
const timeFormat = "2006-01-02T15:04:05.000000000Z07:00"

func text(s string) *datav1.Value {
	if !utf8.ValidString(s) {
		return &datav1.Value{Kind: &datav1.Value_TextBytes{TextBytes: []byte(s)}}
	}
	return &datav1.Value{Kind: &datav1.Value_Text{Text: s}}
}

func integer(i int64) *datav1.Value {
	return &datav1.Value{Kind: &datav1.Value_Integer{Integer: i}}
}

func reflected(r reflect.Value) (*datav1.Value, error) {
	switch r.Kind() {
	case reflect.Pointer:
		if r.IsNil() {
			return &datav1.Value{}, nil
		}
		return Value(r.Elem().Interface())
	case reflect.Bool:
		if r.Bool() {
			return integer(1), nil
		}
		return integer(0), nil
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		return integer(r.Int()), nil
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		if r.Uint() > math.MaxInt64 {
			return nil, fmt.Errorf("%d is more than an integer of the database can be", r.Uint())
		}
		return integer(int64(r.Uint())), nil
	case reflect.Float32, reflect.Float64:
		if math.IsNaN(r.Float()) {
			return &datav1.Value{}, nil
		}
		return &datav1.Value{Kind: &datav1.Value_Real{Real: r.Float()}}, nil
	case reflect.String:
		return text(r.String()), nil
	case reflect.Slice:
		if r.Type().Elem().Kind() != reflect.Uint8 {
			break
		}
		if r.IsNil() {
			return &datav1.Value{}, nil
		}
		return &datav1.Value{Kind: &datav1.Value_Blob{Blob: r.Bytes()}}, nil
	default:
	}
	return nil, fmt.Errorf("%v is no value of a database", r.Type())
}

// statement returns a statement with its parameters. Those made with sql.Named go by their name.
func statement(query string, args []any) (*datav1.Statement, error) {
	st := &datav1.Statement{Sql: query}
	for i, arg := range args {
		named, isNamed := arg.(sql.NamedArg)
		if isNamed {
			arg = named.Value
		}
		v, err := Value(arg)
		switch {
		case err != nil && isNamed:
			return nil, fmt.Errorf("parameter %s: %w", named.Name, err)
		case err != nil:
			return nil, fmt.Errorf("parameter %d: %w", i+1, err)
		case isNamed:
			if st.NamedParameters == nil {
				st.NamedParameters = make(map[string]*datav1.Value)
			}
			st.NamedParameters[named.Name] = v
		default:
			st.Parameters = append(st.Parameters, v)
		}
	}
	return st, nil
}

// keyOf returns the key of a row.
func keyOf(values []any) (*datav1.Key, error) {
	if len(values) == 0 {
		return nil, errors.New("a key has at least one value")
	}
	list, err := valuesOf(values)
	if err != nil {
		return nil, fmt.Errorf("key: %w", err)
	}
	return &datav1.Key{Values: list}, nil
}

func valuesOf(values []any) ([]*datav1.Value, error) {
	list := make([]*datav1.Value, len(values))
	for i, v := range values {
		var err error
		if list[i], err = Value(v); err != nil {
			return nil, err
		}
	}
	return list, nil
}

// columnsOf returns the columns of a row to write: the fields of a struct, or the entries of a map with string keys.
func columnsOf(row any) (map[string]*datav1.Value, error) {
	r := reflect.ValueOf(row)
	for r.Kind() == reflect.Pointer && !r.IsNil() {
		r = r.Elem()
	}
	switch {
	case r.Kind() == reflect.Struct:
		return structColumns(r)
	case r.Kind() == reflect.Map && r.Type().Key().Kind() == reflect.String:
		columns := make(map[string]*datav1.Value, r.Len())
		for iter := r.MapRange(); iter.Next(); {
			name := iter.Key().String()
			v, err := Value(iter.Value().Interface())
			if err != nil {
				return nil, fmt.Errorf("column %s: %w", name, err)
			}
			columns[name] = v
		}
		return columns, nil
	default:
		return nil, fmt.Errorf("%T is no row: want a struct or a map from names", row)
	}
}

func structColumns(r reflect.Value) (map[string]*datav1.Value, error) {
	columns := make(map[string]*datav1.Value)
	for _, f := range shapeOf(r.Type()).fields {
		field, err := r.FieldByIndexErr(f.index)
		if err != nil || f.omitZero && field.IsZero() {
			continue // the fields of a nil embedded struct are not there
		}
		v, err := Value(field.Interface())
		if err != nil {
			return nil, fmt.Errorf("field %s: %w", f.name, err)
		}
		columns[f.column()] = v
	}
	if len(columns) == 0 {
		return nil, fmt.Errorf("%v has no columns", r.Type())
	}
	return columns, nil
}

// column is the name that a field has in a row to write: its tag's, or its own in snake case.
func (f field) column() string {
	if f.tag != "" {
		return f.tag
	}
	var b strings.Builder
	for i, r := range f.name {
		if i > 0 && r >= 'A' && r <= 'Z' {
			if prev := f.name[i-1]; prev >= 'a' && prev <= 'z' || prev >= '0' && prev <= '9' ||
				i+1 < len(f.name) && f.name[i+1] >= 'a' && f.name[i+1] <= 'z' {
				b.WriteByte('_')
			}
		}
		b.WriteRune(r)
	}
	return strings.ToLower(b.String())
}
