package meshdb

// AuditDatabaseID is the id of _audit, the primary's own database of who did what. As with _auth, no row names it, nobody follows
// it, and no caller's request finds it.
const (
	AuditName       = "_audit"
	AuditDatabaseID = uint32(3)
)
