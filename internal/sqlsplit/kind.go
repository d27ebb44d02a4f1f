package sqlsplit

import "strings"

// IsComplete reports whether sql ends where a statement does, as
// sqlite3_complete does: true behind a ';' that is not within a string, a
// quoted name, a comment or a trigger, with nothing but space and comments
// after it. Text without any ';' is not complete, nor is text within a comment,
// which for one that "--" began lasts until the line feed.
func IsComplete(sql string) bool {
	lexer := newLexer(0)
	for text := []byte(sql); lexer.feed(text[lexer.pos:]); {
		lexer.next()
	}
	open := lexer.finish()
	return !open && lexer.state == stateBetween
}

// IsBlank reports whether sql holds nothing but space, comments, byte order marks and ';'.
func IsBlank(sql string) bool { return blank(sql) == len(sql) }

// Kind returns the first keyword of a statement in upper case, such as SELECT,
// BEGIN, COMMIT, END, ROLLBACK, SAVEPOINT, RELEASE, PRAGMA, VACUUM or ATTACH.
// Like SQLite it passes over space, comments, byte order marks and lone ';' in
// front. It returns "" where no word stands first. Of EXPLAIN and WITH it does
// not look at what they are about.
func Kind(statement string) string {
	rest := statement[blank(statement):]
	n := 0
	for n < len(rest) && classes[rest[n]] == classWord {
		n++
	}
	// Not strings.ToUpper: SQLite's keywords are ASCII, and "ſavepoint" is none.
	return strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' {
			return r - 'a' + 'A'
		}
		return r
	}, rest[:n])
}

// blank is the length of the space, comments, byte order marks and ';' that sql
// begins with.
func blank(sql string) int {
	i := 0
	for i < len(sql) {
		rest := sql[i:]
		switch {
		case classes[rest[0]] == classSpace, rest[0] == ';':
			i++
		case strings.HasPrefix(rest, string(byteOrderMark)):
			i += len(byteOrderMark)
		case strings.HasPrefix(rest, "--"):
			i += commentLen(rest, "\n")
		case strings.HasPrefix(rest, "/*"):
			i += commentLen(rest, "*/")
		default:
			return i
		}
	}
	return i
}

// commentLen is the length of the comment sql begins with, up to its closer or
// the end of sql.
func commentLen(sql, closer string) int {
	const opener = 2 // the length of "--" and "/*"
	if n := strings.Index(sql[opener:], closer); n >= 0 {
		return opener + n + len(closer)
	}
	return len(sql)
}
