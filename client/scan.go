package client

import (
	"database/sql"
	"errors"
	"fmt"
	"math"
	"reflect"
	"strings"
	"time"

	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
)

// scanner turns rows into values of T. What T may be:
//
//   - a struct: each column goes into the field that its `db` tag or name says (see tagName); a column without a field is an
//     error, a field without a column stays zero;
//   - map[string]any: int64, float64, string, []byte or nil by column;
//   - []any: the same in the order of the columns;
//   - anything else takes the one column that there is.
//
// A value must fit: NULL needs a pointer, any, []byte or a sql.Scanner; text does not become a number; an integer beyond the
// field's type is an error; a real goes into an integer only if it is whole.
type scanner[T any] struct {
	columns []*datav1.Column
	kind    scanKind
	fields  []field
	version []int
}

type scanKind uint8

const (
	scanScalar scanKind = iota
	scanStruct
	scanMap
	scanList
)

var (
	timeType    = reflect.TypeFor[time.Time]()
	scannerType = reflect.TypeFor[sql.Scanner]()
	valueType   = reflect.TypeFor[*datav1.Value]()
)

func newScanner[T any](columns []*datav1.Column) (*scanner[T], error) {
	s := &scanner[T]{columns: columns}
	t := reflect.TypeFor[T]()
	switch {
	case t == reflect.TypeFor[map[string]any]():
		s.kind = scanMap
	case t == reflect.TypeFor[[]any]():
		s.kind = scanList
	case t.Kind() == reflect.Struct && t != timeType && !reflect.PointerTo(t).Implements(scannerType):
		s.kind = scanStruct
		return s, s.bindFields(t)
	case len(columns) != 1:
		return nil, fmt.Errorf("%v takes one column, there are %d", t, len(columns))
	}
	if s.kind == scanMap {
		seen := make(map[string]bool, len(columns))
		for _, c := range columns {
			if seen[c.GetName()] {
				return nil, fmt.Errorf("there are two columns %s: give one another name with AS", c.GetName())
			}
			seen[c.GetName()] = true
		}
	}
	return s, nil
}

func (s *scanner[T]) bindFields(t reflect.Type) error {
	shape := shapeOf(t)
	s.version, s.fields = shape.version, make([]field, len(s.columns))
	taken := make(map[string]string, len(s.columns))
	for i, c := range s.columns {
		f, ok := shape.find(c.GetName())
		if !ok {
			return fmt.Errorf("%v has no field for column %s", t, c.GetName())
		}
		at := fmt.Sprint(f.index)
		if other, twice := taken[at]; twice {
			return fmt.Errorf("columns %s and %s both go into %v.%s", other, c.GetName(), t, f.name)
		}
		taken[at], s.fields[i] = c.GetName(), f
	}
	return nil
}

// scan turns one row into a T that shares no memory with it but for blobs.
func (s *scanner[T]) scan(row *datav1.Row) (out T, err error) {
	values := row.GetValues()
	if len(values) != len(s.columns) {
		return out, fmt.Errorf("a row has %d values for %d columns", len(values), len(s.columns))
	}
	to := reflect.ValueOf(&out).Elem()
	switch s.kind {
	case scanMap:
		m := make(map[string]any, len(values))
		for i, v := range values {
			m[s.columns[i].GetName()] = native(v)
		}
		to.Set(reflect.ValueOf(m))
	case scanList:
		list := make([]any, len(values))
		for i, v := range values {
			list[i] = native(v)
		}
		to.Set(reflect.ValueOf(list))
	case scanStruct:
		for i, v := range values {
			if err := assign(fieldAt(to, s.fields[i].index), v); err != nil {
				return out, fmt.Errorf("column %s: %w", s.columns[i].GetName(), err)
			}
		}
		if s.version != nil {
			if err := assign(fieldAt(to, s.version), integer(int64(row.GetVersion()))); err != nil {
				return out, fmt.Errorf("version: %w", err)
			}
		}
	default:
		if err := assign(to, values[0]); err != nil {
			return out, fmt.Errorf("column %s: %w", s.columns[0].GetName(), err)
		}
	}
	return out, nil
}

// fieldAt returns a field, making the embedded structs on its way that are pointers.
func fieldAt(v reflect.Value, index []int) reflect.Value {
	for i, n := range index {
		if i > 0 && v.Kind() == reflect.Pointer {
			if v.IsNil() {
				v.Set(reflect.New(v.Type().Elem()))
			}
			v = v.Elem()
		}
		v = v.Field(n)
	}
	return v
}

// native returns a value as Go has it.
func native(v *datav1.Value) any {
	switch k := v.GetKind().(type) {
	case *datav1.Value_Integer:
		return k.Integer
	case *datav1.Value_Real:
		return k.Real
	case *datav1.Value_Text:
		return k.Text
	case *datav1.Value_TextBytes:
		return string(k.TextBytes)
	case *datav1.Value_Blob:
		return k.Blob
	default:
		return nil
	}
}

// assign puts a value into to, which can be set.
func assign(to reflect.Value, v *datav1.Value) error {
	t := to.Type()
	if t == valueType {
		to.Set(reflect.ValueOf(v))
		return nil
	}
	if to.CanAddr() && reflect.PointerTo(t).Implements(scannerType) {
		return to.Addr().Interface().(sql.Scanner).Scan(native(v))
	}
	value := native(v)
	switch {
	case t.Kind() == reflect.Interface && t.NumMethod() == 0:
		to.SetZero()
		if value != nil {
			to.Set(reflect.ValueOf(value))
		}
		return nil
	case value == nil:
		if t.Kind() == reflect.Pointer || t.Kind() == reflect.Slice {
			to.SetZero()
			return nil
		}
		return fmt.Errorf("NULL does not go into %v: use a pointer", t)
	case t.Kind() == reflect.Pointer:
		p := reflect.New(t.Elem())
		if err := assign(p.Elem(), v); err != nil {
			return err
		}
		to.Set(p)
		return nil
	case t == timeType:
		s, ok := value.(string)
		if !ok {
			return mismatch(value, t)
		}
		parsed, err := parseTime(s)
		to.Set(reflect.ValueOf(parsed))
		return err
	}
	return assignBasic(to, value)
}

func assignBasic(to reflect.Value, value any) error {
	t := to.Type()
	switch t.Kind() {
	case reflect.Bool:
		if i, ok := value.(int64); ok && (i == 0 || i == 1) {
			to.SetBool(i == 1)
			return nil
		}
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		if i, ok := whole(value); ok {
			if to.OverflowInt(i) {
				return fmt.Errorf("%d is more than %v holds", i, t)
			}
			to.SetInt(i)
			return nil
		}
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		if i, ok := whole(value); ok {
			if i < 0 || to.OverflowUint(uint64(i)) {
				return fmt.Errorf("%v does not hold %d", t, i)
			}
			to.SetUint(uint64(i))
			return nil
		}
	case reflect.Float32, reflect.Float64:
		switch f := value.(type) {
		case float64:
			to.SetFloat(f)
			return nil
		case int64:
			if int64(float64(f)) != f || float64(f) == math.MaxInt64 {
				return fmt.Errorf("%v does not hold %d exactly", t, f)
			}
			to.SetFloat(float64(f))
			return nil
		}
	case reflect.String:
		if s, ok := value.(string); ok {
			to.SetString(s)
			return nil
		}
	case reflect.Slice:
		if t.Elem().Kind() != reflect.Uint8 {
			break
		}
		switch b := value.(type) {
		case []byte:
			to.SetBytes(b)
			return nil
		case string:
			to.SetBytes([]byte(b))
			return nil
		}
	default:
	}
	return mismatch(value, t)
}

// whole returns an integer, or a real that is one.
func whole(value any) (int64, bool) {
	switch n := value.(type) {
	case int64:
		return n, true
	case float64:
		return int64(n), math.Trunc(n) == n && n >= math.MinInt64 && n < math.MaxInt64
	default:
		return 0, false
	}
}

func mismatch(value any, t reflect.Type) error {
	class := map[string]string{"int64": "an integer", "float64": "a real", "string": "text", "[]uint8": "a blob"}
	return fmt.Errorf("%s does not go into %v", class[fmt.Sprintf("%T", value)], t)
}

// parseTime reads the forms in which SQLite's functions and Value write times. Those without a zone are UTC.
func parseTime(s string) (time.Time, error) {
	for _, layout := range []string{time.RFC3339Nano, "2006-01-02 15:04:05.999999999Z07:00", time.DateTime, "2006-01-02T15:04:05", time.DateOnly} {
		if t, err := time.Parse(layout, strings.TrimSpace(s)); err == nil {
			return t, nil
		}
	}
	return time.Time{}, errors.New("the text is no time: want RFC 3339, or SQLite's form of it")
}
