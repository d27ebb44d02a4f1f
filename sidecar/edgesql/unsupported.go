package edgesql

// Reason says why a statement is for the primary. It is a metric's label.
type Reason string

// The reasons.
const (
	ReasonWrites    Reason = "writes"    // it may write, or is no SELECT
	ReasonSchema    Reason = "schema"    // a PRAGMA that tells of the file, or the primary has not told the rows of sqlite_schema
	ReasonExplain   Reason = "explain"   // its plan is another here
	ReasonTable     Reason = "table"     // it reads a table that no replica has: one of SQLite's own
	ReasonFunction  Reason = "function"  // it calls a function that tells of a connection or a file
	ReasonGenerated Reason = "generated" // a virtual generated column could not be computed
	ReasonIndexed   Reason = "indexed"   // INDEXED BY: indexes have other names here, or none
	ReasonDiverged  Reason = "diverged"  // a table is being repaired
	ReasonError     Reason = "error"     // it does not compile: the primary says why, and may have a newer schema
	ReasonFailed    Reason = "failed"    // the replica could not be read
)

// UnsupportedError means that the primary is to be asked.
type UnsupportedError struct {
	Reason Reason
	Detail string // of what: a table, a function
	Err    error  // of ReasonError and ReasonFailed
}

// Error implements error.
func (u *UnsupportedError) Error() string {
	s := "not answered from the replica: " + string(u.Reason)
	if u.Detail != "" {
		s += ": " + u.Detail
	}
	if u.Err != nil {
		s += ": " + u.Err.Error()
	}
	return s
}

// Unwrap returns Err.
func (u *UnsupportedError) Unwrap() error { return u.Err }
