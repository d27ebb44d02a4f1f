package importer

import (
	"regexp"
	"strings"

	"github.com/nearside-dev/nearside/internal/sqlsplit"
)

// role is what a statement of a dump is to an import.
type role int

const (
	roleRows        role = iota // run it
	roleSchema                  // run it, apart from rows
	roleTransaction             // leave it out: the import has transactions of its own
	roleRollback                // refuse it
	roleSetting                 // leave it out: it speaks to a connection or to a file
)

// statistics are what ANALYZE leaves in a dump. The primary keeps its own.
var statistics = regexp.MustCompile(`(?is)^insert\s+into\s+["'\[` + "`" + `]?sqlite_stat\d`)

func roleOf(statement string) role {
	switch sqlsplit.Kind(statement) {
	case "BEGIN", "COMMIT", "END", "SAVEPOINT", "RELEASE":
		return roleTransaction
	case "ROLLBACK":
		return roleRollback
	case "PRAGMA", "ANALYZE", "VACUUM":
		return roleSetting
	case "CREATE", "DROP", "ALTER", "REINDEX":
		return roleSchema
	case "INSERT":
		if statistics.MatchString(statement) {
			return roleSetting
		}
		return roleRows
	default:
		return roleRows
	}
}

var foreignKeysPragma = regexp.MustCompile(`(?is)^pragma\s+(?:main\s*\.\s*)?foreign_keys\s*[=(]\s*['"]?(\w+)`)

// foreignKeys reports whether the statement is a PRAGMA that turns foreign keys off or on.
func foreignKeys(statement string) (off, ok bool) {
	match := foreignKeysPragma.FindStringSubmatch(statement)
	if match == nil {
		return false, false
	}
	switch strings.ToLower(match[1]) {
	case "1", "on", "yes", "true":
		return false, true
	default:
		return true, true
	}
}
