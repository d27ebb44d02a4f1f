package client

import (
	"reflect"
	"strings"
	"sync"
)

// tagName is the tag that says which column a field is:
//
//	Name    string  `db:"full_name"`  // the column full_name
//	Email   string                    // the column email; UserID is user_id or userid
//	Note    *string `db:",omitzero"`  // not written where it is zero, so that the column keeps its value or takes its default
//	Version uint64  `db:",version"`   // no column: the version of the commit that last changed the row
//	Cache   []byte  `db:"-"`          // no column
const tagName = "db"

// field is a field of a struct that stands for a column.
type field struct {
	name     string
	tag      string // the column's name if the tag gives it
	index    []int
	omitZero bool
}

// shape is what a struct type says about columns.
type shape struct {
	fields  []field
	byName  map[string]int // index into fields by folded name
	version []int          // index of the field that takes the version; nil if there is none
}

// shapes keeps the shape of each type that was met; there are as many as the program has types.
var shapes sync.Map // reflect.Type → *shape

// shapeOf returns the shape of a struct type.
func shapeOf(t reflect.Type) *shape {
	if s, ok := shapes.Load(t); ok {
		return s.(*shape)
	}
	s := &shape{byName: make(map[string]int)}
	for _, f := range reflect.VisibleFields(t) {
		tag := f.Tag.Get(tagName)
		column, option, _ := strings.Cut(tag, ",")
		switch {
		case !f.IsExported(), tag == "-", f.Anonymous && tag == "" && isStruct(f.Type), hidden(t, f.Index):
		case option == "version":
			s.version = f.Index
		default:
			name := column
			if name == "" {
				name = f.Name
			}
			s.byName[fold(name, column != "")] = len(s.fields)
			s.fields = append(s.fields, field{name: f.Name, tag: column, index: f.Index, omitZero: option == "omitzero"})
		}
	}
	known, _ := shapes.LoadOrStore(t, s)
	return known.(*shape)
}

// hidden reports whether a promoted field is inside an embedded one that stands for a column itself or for none.
func hidden(t reflect.Type, index []int) bool {
	for n := 1; n < len(index); n++ {
		if outer := t.FieldByIndex(index[:n]); outer.Tag.Get(tagName) != "" {
			return true
		}
	}
	return false
}

func isStruct(t reflect.Type) bool {
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	return t.Kind() == reflect.Struct
}

// find returns the field that takes a column.
func (s *shape) find(column string) (field, bool) {
	i, ok := s.byName[fold(column, true)]
	if !ok {
		i, ok = s.byName[fold(column, false)]
	}
	if !ok {
		return field{}, false
	}
	return s.fields[i], true
}

// fold returns a name as it is compared: SQL's names know no case, and a field's name no underscores. Names of tags are told
// from those of fields by a mark.
func fold(name string, exact bool) string {
	name = strings.ToLower(name)
	if exact {
		return "=" + name
	}
	return strings.ReplaceAll(name, "_", "")
}
