package edgesql

import (
	"errors"
	"strings"

	"github.com/nearside-dev/nearside/internal/catalog"
	"github.com/nearside-dev/nearside/internal/sqlite"
)

// Compiled is what is known of a statement once it is compiled, for whoever keeps its answer.
type Compiled struct {
	// Tables are those that it may read, also through views and sub-queries, by SQLite's own account. They are the catalog's,
	// and nobody changes the slice.
	Tables []*catalog.Table
	// Volatile says that it may answer something else from the same rows: it calls random() or asks for the time.
	Volatile bool
}

// Observer is a Sink that wants to know of a statement what is known before its first row.
type Observer interface {
	Compiled(c Compiled)
}

// timeFunctions may be asked for the time now, in words that are in a parameter or a column.
var timeFunctions = map[string]bool{
	"date": true, "time": true, "datetime": true, "julianday": true, "unixepoch": true, "strftime": true, "timediff": true,
}

// sqliteDeterministic is SQLITE_DETERMINISTIC.
const sqliteDeterministic = 0x800

// steadyFunctions returns the functions that answer the same to the same: scalar ones that SQLite says so of, and all that
// aggregate, of which it has no others.
func steadyFunctions(c *sqlite.Conn) (steady map[string]bool, err error) {
	st, _, err := c.Prepare("SELECT name, type, flags FROM pragma_function_list")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, st.Finalize()) }()
	steady = make(map[string]bool)
	other := make(map[string]bool)
	for {
		row, err := st.Step()
		if err != nil {
			return nil, err
		}
		if !row {
			break
		}
		name := strings.ToLower(st.Column(0).Text())
		if st.Column(1).Text() != "s" || st.Column(2).Integer()&sqliteDeterministic != 0 {
			steady[name] = true
		} else {
			other[name] = true
		}
	}
	for name := range steady {
		if other[name] || timeFunctions[name] {
			delete(steady, name)
		}
	}
	return steady, nil
}
