package sqlite

import sqlite3 "modernc.org/sqlite/lib"

// Action is what a statement being compiled wants to do.
type Action int32

// The actions; the comment names arg1 and arg2.
const (
	ActionCreateIndex       Action = sqlite3.SQLITE_CREATE_INDEX        // index, table
	ActionCreateTable       Action = sqlite3.SQLITE_CREATE_TABLE        // table
	ActionCreateTempIndex   Action = sqlite3.SQLITE_CREATE_TEMP_INDEX   // index, table
	ActionCreateTempTable   Action = sqlite3.SQLITE_CREATE_TEMP_TABLE   // table
	ActionCreateTempTrigger Action = sqlite3.SQLITE_CREATE_TEMP_TRIGGER // trigger, table
	ActionCreateTempView    Action = sqlite3.SQLITE_CREATE_TEMP_VIEW    // view
	ActionCreateTrigger     Action = sqlite3.SQLITE_CREATE_TRIGGER      // trigger, table
	ActionCreateView        Action = sqlite3.SQLITE_CREATE_VIEW         // view
	ActionDelete            Action = sqlite3.SQLITE_DELETE              // table
	ActionDropIndex         Action = sqlite3.SQLITE_DROP_INDEX          // index, table
	ActionDropTable         Action = sqlite3.SQLITE_DROP_TABLE          // table
	ActionDropTempIndex     Action = sqlite3.SQLITE_DROP_TEMP_INDEX     // index, table
	ActionDropTempTable     Action = sqlite3.SQLITE_DROP_TEMP_TABLE     // table
	ActionDropTempTrigger   Action = sqlite3.SQLITE_DROP_TEMP_TRIGGER   // trigger, table
	ActionDropTempView      Action = sqlite3.SQLITE_DROP_TEMP_VIEW      // view
	ActionDropTrigger       Action = sqlite3.SQLITE_DROP_TRIGGER        // trigger, table
	ActionDropView          Action = sqlite3.SQLITE_DROP_VIEW           // view
	ActionInsert            Action = sqlite3.SQLITE_INSERT              // table
	ActionPragma            Action = sqlite3.SQLITE_PRAGMA              // pragma, its argument or ""
	ActionRead              Action = sqlite3.SQLITE_READ                // table, column
	ActionSelect            Action = sqlite3.SQLITE_SELECT              // no arguments
	ActionTransaction       Action = sqlite3.SQLITE_TRANSACTION         // BEGIN, COMMIT or ROLLBACK
	ActionUpdate            Action = sqlite3.SQLITE_UPDATE              // table, column
	ActionAttach            Action = sqlite3.SQLITE_ATTACH              // file name
	ActionDetach            Action = sqlite3.SQLITE_DETACH              // database
	ActionAlterTable        Action = sqlite3.SQLITE_ALTER_TABLE         // database, table (the db argument is empty)
	ActionReindex           Action = sqlite3.SQLITE_REINDEX             // index
	ActionAnalyze           Action = sqlite3.SQLITE_ANALYZE             // table
	ActionCreateVTable      Action = sqlite3.SQLITE_CREATE_VTABLE       // table, module
	ActionDropVTable        Action = sqlite3.SQLITE_DROP_VTABLE         // table, module
	ActionFunction          Action = sqlite3.SQLITE_FUNCTION            // "", function
	ActionSavepoint         Action = sqlite3.SQLITE_SAVEPOINT           // BEGIN, RELEASE or ROLLBACK; name
	ActionRecursive         Action = sqlite3.SQLITE_RECURSIVE           // no arguments
)

// Auth is an authorizer's answer.
type Auth int32

// The answers.
const (
	AuthOK     Auth = sqlite3.SQLITE_OK
	AuthDeny   Auth = sqlite3.SQLITE_DENY   // the whole statement fails with CodeAuth
	AuthIgnore Auth = sqlite3.SQLITE_IGNORE // a column read gives NULL, another action does nothing
)
