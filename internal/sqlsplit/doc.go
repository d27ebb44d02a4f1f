// Package sqlsplit cuts SQL text into statements by SQLite's lexical rules, as
// it arrives: a statement is handed out as soon as its ';' has been read.
//
// It serves `nearside import` and the standard input of `nearside sql`. It knows
// where statements begin and end, including the ';' inside strings, quoted
// names, comments and triggers, and agrees with sqlite3_complete on that. It
// does not parse: whether a statement is valid SQL is for the primary to say.
package sqlsplit
