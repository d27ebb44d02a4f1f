package sqlite

import sqlite3 "modernc.org/sqlite/lib"

// Code is an SQLite result code, primary (one byte) or extended.
type Code int32

// The primary codes that an Error may have.
const (
	CodeOK         Code = sqlite3.SQLITE_OK
	CodeError      Code = sqlite3.SQLITE_ERROR
	CodeInternal   Code = sqlite3.SQLITE_INTERNAL
	CodePerm       Code = sqlite3.SQLITE_PERM
	CodeAbort      Code = sqlite3.SQLITE_ABORT
	CodeBusy       Code = sqlite3.SQLITE_BUSY
	CodeLocked     Code = sqlite3.SQLITE_LOCKED
	CodeNoMem      Code = sqlite3.SQLITE_NOMEM
	CodeReadOnly   Code = sqlite3.SQLITE_READONLY
	CodeInterrupt  Code = sqlite3.SQLITE_INTERRUPT
	CodeIOErr      Code = sqlite3.SQLITE_IOERR
	CodeCorrupt    Code = sqlite3.SQLITE_CORRUPT
	CodeNotFound   Code = sqlite3.SQLITE_NOTFOUND
	CodeFull       Code = sqlite3.SQLITE_FULL
	CodeCantOpen   Code = sqlite3.SQLITE_CANTOPEN
	CodeProtocol   Code = sqlite3.SQLITE_PROTOCOL
	CodeSchema     Code = sqlite3.SQLITE_SCHEMA
	CodeTooBig     Code = sqlite3.SQLITE_TOOBIG
	CodeConstraint Code = sqlite3.SQLITE_CONSTRAINT
	CodeMismatch   Code = sqlite3.SQLITE_MISMATCH
	CodeMisuse     Code = sqlite3.SQLITE_MISUSE
	CodeAuth       Code = sqlite3.SQLITE_AUTH
	CodeRange      Code = sqlite3.SQLITE_RANGE
	CodeNotADB     Code = sqlite3.SQLITE_NOTADB
)

// The extended codes that callers tell apart; Name knows all of them.
const (
	CodeAbortRollback        Code = sqlite3.SQLITE_ABORT_ROLLBACK
	CodeBusyRecovery         Code = sqlite3.SQLITE_BUSY_RECOVERY
	CodeBusySnapshot         Code = sqlite3.SQLITE_BUSY_SNAPSHOT
	CodeBusyTimeout          Code = sqlite3.SQLITE_BUSY_TIMEOUT
	CodeLockedSharedCache    Code = sqlite3.SQLITE_LOCKED_SHAREDCACHE
	CodeLockedVTab           Code = sqlite3.SQLITE_LOCKED_VTAB
	CodeIOErrRead            Code = sqlite3.SQLITE_IOERR_READ
	CodeIOErrShortRead       Code = sqlite3.SQLITE_IOERR_SHORT_READ
	CodeIOErrWrite           Code = sqlite3.SQLITE_IOERR_WRITE
	CodeIOErrFsync           Code = sqlite3.SQLITE_IOERR_FSYNC
	CodeIOErrNoMem           Code = sqlite3.SQLITE_IOERR_NOMEM
	CodeCorruptVTab          Code = sqlite3.SQLITE_CORRUPT_VTAB
	CodeCorruptSequence      Code = sqlite3.SQLITE_CORRUPT_SEQUENCE
	CodeCorruptIndex         Code = sqlite3.SQLITE_CORRUPT_INDEX
	CodeConstraintCheck      Code = sqlite3.SQLITE_CONSTRAINT_CHECK
	CodeConstraintCommitHook Code = sqlite3.SQLITE_CONSTRAINT_COMMITHOOK
	CodeConstraintForeignKey Code = sqlite3.SQLITE_CONSTRAINT_FOREIGNKEY
	CodeConstraintFunction   Code = sqlite3.SQLITE_CONSTRAINT_FUNCTION
	CodeConstraintNotNull    Code = sqlite3.SQLITE_CONSTRAINT_NOTNULL
	CodeConstraintPrimaryKey Code = sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY
	CodeConstraintTrigger    Code = sqlite3.SQLITE_CONSTRAINT_TRIGGER
	CodeConstraintUnique     Code = sqlite3.SQLITE_CONSTRAINT_UNIQUE
	CodeConstraintVTab       Code = sqlite3.SQLITE_CONSTRAINT_VTAB
	CodeConstraintRowID      Code = sqlite3.SQLITE_CONSTRAINT_ROWID
	CodeConstraintPinned     Code = sqlite3.SQLITE_CONSTRAINT_PINNED
	CodeConstraintDataType   Code = sqlite3.SQLITE_CONSTRAINT_DATATYPE
)

// Primary returns the primary code of an extended one.
func (c Code) Primary() Code { return c & 0xff }

// Name returns the code's symbolic name in SQLite's header. An extended code that this build does not know has the name of
// its primary code.
func (c Code) Name() string {
	if s, ok := codeNames[c]; ok {
		return s
	}
	if s, ok := codeNames[c.Primary()]; ok {
		return s
	}
	return "SQLITE_UNKNOWN"
}

// String returns Name.
func (c Code) String() string { return c.Name() }

// codeNames is every result code of sqlite3.h.
var codeNames = map[Code]string{
	sqlite3.SQLITE_OK:         "SQLITE_OK",
	sqlite3.SQLITE_ERROR:      "SQLITE_ERROR",
	sqlite3.SQLITE_INTERNAL:   "SQLITE_INTERNAL",
	sqlite3.SQLITE_PERM:       "SQLITE_PERM",
	sqlite3.SQLITE_ABORT:      "SQLITE_ABORT",
	sqlite3.SQLITE_BUSY:       "SQLITE_BUSY",
	sqlite3.SQLITE_LOCKED:     "SQLITE_LOCKED",
	sqlite3.SQLITE_NOMEM:      "SQLITE_NOMEM",
	sqlite3.SQLITE_READONLY:   "SQLITE_READONLY",
	sqlite3.SQLITE_INTERRUPT:  "SQLITE_INTERRUPT",
	sqlite3.SQLITE_IOERR:      "SQLITE_IOERR",
	sqlite3.SQLITE_CORRUPT:    "SQLITE_CORRUPT",
	sqlite3.SQLITE_NOTFOUND:   "SQLITE_NOTFOUND",
	sqlite3.SQLITE_FULL:       "SQLITE_FULL",
	sqlite3.SQLITE_CANTOPEN:   "SQLITE_CANTOPEN",
	sqlite3.SQLITE_PROTOCOL:   "SQLITE_PROTOCOL",
	sqlite3.SQLITE_EMPTY:      "SQLITE_EMPTY",
	sqlite3.SQLITE_SCHEMA:     "SQLITE_SCHEMA",
	sqlite3.SQLITE_TOOBIG:     "SQLITE_TOOBIG",
	sqlite3.SQLITE_CONSTRAINT: "SQLITE_CONSTRAINT",
	sqlite3.SQLITE_MISMATCH:   "SQLITE_MISMATCH",
	sqlite3.SQLITE_MISUSE:     "SQLITE_MISUSE",
	sqlite3.SQLITE_NOLFS:      "SQLITE_NOLFS",
	sqlite3.SQLITE_AUTH:       "SQLITE_AUTH",
	sqlite3.SQLITE_FORMAT:     "SQLITE_FORMAT",
	sqlite3.SQLITE_RANGE:      "SQLITE_RANGE",
	sqlite3.SQLITE_NOTADB:     "SQLITE_NOTADB",
	sqlite3.SQLITE_NOTICE:     "SQLITE_NOTICE",
	sqlite3.SQLITE_WARNING:    "SQLITE_WARNING",
	sqlite3.SQLITE_ROW:        "SQLITE_ROW",
	sqlite3.SQLITE_DONE:       "SQLITE_DONE",

	sqlite3.SQLITE_ERROR_MISSING_COLLSEQ:   "SQLITE_ERROR_MISSING_COLLSEQ",
	sqlite3.SQLITE_ERROR_RETRY:             "SQLITE_ERROR_RETRY",
	sqlite3.SQLITE_ERROR_SNAPSHOT:          "SQLITE_ERROR_SNAPSHOT",
	sqlite3.SQLITE_ERROR_RESERVESIZE:       "SQLITE_ERROR_RESERVESIZE",
	sqlite3.SQLITE_ERROR_KEY:               "SQLITE_ERROR_KEY",
	sqlite3.SQLITE_ERROR_UNABLE:            "SQLITE_ERROR_UNABLE",
	sqlite3.SQLITE_ABORT_ROLLBACK:          "SQLITE_ABORT_ROLLBACK",
	sqlite3.SQLITE_BUSY_RECOVERY:           "SQLITE_BUSY_RECOVERY",
	sqlite3.SQLITE_BUSY_SNAPSHOT:           "SQLITE_BUSY_SNAPSHOT",
	sqlite3.SQLITE_BUSY_TIMEOUT:            "SQLITE_BUSY_TIMEOUT",
	sqlite3.SQLITE_LOCKED_SHAREDCACHE:      "SQLITE_LOCKED_SHAREDCACHE",
	sqlite3.SQLITE_LOCKED_VTAB:             "SQLITE_LOCKED_VTAB",
	sqlite3.SQLITE_READONLY_RECOVERY:       "SQLITE_READONLY_RECOVERY",
	sqlite3.SQLITE_READONLY_CANTLOCK:       "SQLITE_READONLY_CANTLOCK",
	sqlite3.SQLITE_READONLY_ROLLBACK:       "SQLITE_READONLY_ROLLBACK",
	sqlite3.SQLITE_READONLY_DBMOVED:        "SQLITE_READONLY_DBMOVED",
	sqlite3.SQLITE_READONLY_CANTINIT:       "SQLITE_READONLY_CANTINIT",
	sqlite3.SQLITE_READONLY_DIRECTORY:      "SQLITE_READONLY_DIRECTORY",
	sqlite3.SQLITE_IOERR_READ:              "SQLITE_IOERR_READ",
	sqlite3.SQLITE_IOERR_SHORT_READ:        "SQLITE_IOERR_SHORT_READ",
	sqlite3.SQLITE_IOERR_WRITE:             "SQLITE_IOERR_WRITE",
	sqlite3.SQLITE_IOERR_FSYNC:             "SQLITE_IOERR_FSYNC",
	sqlite3.SQLITE_IOERR_DIR_FSYNC:         "SQLITE_IOERR_DIR_FSYNC",
	sqlite3.SQLITE_IOERR_TRUNCATE:          "SQLITE_IOERR_TRUNCATE",
	sqlite3.SQLITE_IOERR_FSTAT:             "SQLITE_IOERR_FSTAT",
	sqlite3.SQLITE_IOERR_UNLOCK:            "SQLITE_IOERR_UNLOCK",
	sqlite3.SQLITE_IOERR_RDLOCK:            "SQLITE_IOERR_RDLOCK",
	sqlite3.SQLITE_IOERR_DELETE:            "SQLITE_IOERR_DELETE",
	sqlite3.SQLITE_IOERR_BLOCKED:           "SQLITE_IOERR_BLOCKED",
	sqlite3.SQLITE_IOERR_NOMEM:             "SQLITE_IOERR_NOMEM",
	sqlite3.SQLITE_IOERR_ACCESS:            "SQLITE_IOERR_ACCESS",
	sqlite3.SQLITE_IOERR_CHECKRESERVEDLOCK: "SQLITE_IOERR_CHECKRESERVEDLOCK",
	sqlite3.SQLITE_IOERR_LOCK:              "SQLITE_IOERR_LOCK",
	sqlite3.SQLITE_IOERR_CLOSE:             "SQLITE_IOERR_CLOSE",
	sqlite3.SQLITE_IOERR_DIR_CLOSE:         "SQLITE_IOERR_DIR_CLOSE",
	sqlite3.SQLITE_IOERR_SHMOPEN:           "SQLITE_IOERR_SHMOPEN",
	sqlite3.SQLITE_IOERR_SHMSIZE:           "SQLITE_IOERR_SHMSIZE",
	sqlite3.SQLITE_IOERR_SHMLOCK:           "SQLITE_IOERR_SHMLOCK",
	sqlite3.SQLITE_IOERR_SHMMAP:            "SQLITE_IOERR_SHMMAP",
	sqlite3.SQLITE_IOERR_SEEK:              "SQLITE_IOERR_SEEK",
	sqlite3.SQLITE_IOERR_DELETE_NOENT:      "SQLITE_IOERR_DELETE_NOENT",
	sqlite3.SQLITE_IOERR_MMAP:              "SQLITE_IOERR_MMAP",
	sqlite3.SQLITE_IOERR_GETTEMPPATH:       "SQLITE_IOERR_GETTEMPPATH",
	sqlite3.SQLITE_IOERR_CONVPATH:          "SQLITE_IOERR_CONVPATH",
	sqlite3.SQLITE_IOERR_VNODE:             "SQLITE_IOERR_VNODE",
	sqlite3.SQLITE_IOERR_AUTH:              "SQLITE_IOERR_AUTH",
	sqlite3.SQLITE_IOERR_BEGIN_ATOMIC:      "SQLITE_IOERR_BEGIN_ATOMIC",
	sqlite3.SQLITE_IOERR_COMMIT_ATOMIC:     "SQLITE_IOERR_COMMIT_ATOMIC",
	sqlite3.SQLITE_IOERR_ROLLBACK_ATOMIC:   "SQLITE_IOERR_ROLLBACK_ATOMIC",
	sqlite3.SQLITE_IOERR_DATA:              "SQLITE_IOERR_DATA",
	sqlite3.SQLITE_IOERR_CORRUPTFS:         "SQLITE_IOERR_CORRUPTFS",
	sqlite3.SQLITE_IOERR_IN_PAGE:           "SQLITE_IOERR_IN_PAGE",
	sqlite3.SQLITE_IOERR_BADKEY:            "SQLITE_IOERR_BADKEY",
	sqlite3.SQLITE_IOERR_CODEC:             "SQLITE_IOERR_CODEC",
	sqlite3.SQLITE_CORRUPT_VTAB:            "SQLITE_CORRUPT_VTAB",
	sqlite3.SQLITE_CORRUPT_SEQUENCE:        "SQLITE_CORRUPT_SEQUENCE",
	sqlite3.SQLITE_CORRUPT_INDEX:           "SQLITE_CORRUPT_INDEX",
	sqlite3.SQLITE_CANTOPEN_NOTEMPDIR:      "SQLITE_CANTOPEN_NOTEMPDIR",
	sqlite3.SQLITE_CANTOPEN_ISDIR:          "SQLITE_CANTOPEN_ISDIR",
	sqlite3.SQLITE_CANTOPEN_FULLPATH:       "SQLITE_CANTOPEN_FULLPATH",
	sqlite3.SQLITE_CANTOPEN_CONVPATH:       "SQLITE_CANTOPEN_CONVPATH",
	sqlite3.SQLITE_CANTOPEN_DIRTYWAL:       "SQLITE_CANTOPEN_DIRTYWAL",
	sqlite3.SQLITE_CANTOPEN_SYMLINK:        "SQLITE_CANTOPEN_SYMLINK",
	sqlite3.SQLITE_CONSTRAINT_CHECK:        "SQLITE_CONSTRAINT_CHECK",
	sqlite3.SQLITE_CONSTRAINT_COMMITHOOK:   "SQLITE_CONSTRAINT_COMMITHOOK",
	sqlite3.SQLITE_CONSTRAINT_FOREIGNKEY:   "SQLITE_CONSTRAINT_FOREIGNKEY",
	sqlite3.SQLITE_CONSTRAINT_FUNCTION:     "SQLITE_CONSTRAINT_FUNCTION",
	sqlite3.SQLITE_CONSTRAINT_NOTNULL:      "SQLITE_CONSTRAINT_NOTNULL",
	sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY:   "SQLITE_CONSTRAINT_PRIMARYKEY",
	sqlite3.SQLITE_CONSTRAINT_TRIGGER:      "SQLITE_CONSTRAINT_TRIGGER",
	sqlite3.SQLITE_CONSTRAINT_UNIQUE:       "SQLITE_CONSTRAINT_UNIQUE",
	sqlite3.SQLITE_CONSTRAINT_VTAB:         "SQLITE_CONSTRAINT_VTAB",
	sqlite3.SQLITE_CONSTRAINT_ROWID:        "SQLITE_CONSTRAINT_ROWID",
	sqlite3.SQLITE_CONSTRAINT_PINNED:       "SQLITE_CONSTRAINT_PINNED",
	sqlite3.SQLITE_CONSTRAINT_DATATYPE:     "SQLITE_CONSTRAINT_DATATYPE",
	sqlite3.SQLITE_AUTH_USER:               "SQLITE_AUTH_USER",
	sqlite3.SQLITE_NOTICE_RECOVER_WAL:      "SQLITE_NOTICE_RECOVER_WAL",
	sqlite3.SQLITE_NOTICE_RECOVER_ROLLBACK: "SQLITE_NOTICE_RECOVER_ROLLBACK",
	sqlite3.SQLITE_NOTICE_RBU:              "SQLITE_NOTICE_RBU",
	sqlite3.SQLITE_WARNING_AUTOINDEX:       "SQLITE_WARNING_AUTOINDEX",
}
