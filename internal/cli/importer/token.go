package importer

import "strings"

// tokenKind is what a token of SQL is, as far as an import has to know.
type tokenKind int

const (
	tokenMark   tokenKind = iota // one character of punctuation
	tokenWord                    // a keyword, a bare name or a number
	tokenName                    // a name in "", “ or []
	tokenString                  // '…'
	tokenBlob                    // x'…'
)

// token is a token and where it stands in its text.
type token struct {
	kind       tokenKind
	text       string
	start, end int
}

// is reports whether the token is the given keyword, in lower case, or mark.
func (t token) is(word string) bool {
	return (t.kind == tokenWord || t.kind == tokenMark) && strings.EqualFold(t.text, word)
}

// name returns what the token names, in lower case, for SQLite's names do not differ in case.
func (t token) name() string {
	s := t.text
	if t.kind == tokenName || t.kind == tokenString {
		quote := s[:1]
		if quote == "[" {
			quote = "]"
		}
		s = strings.TrimSuffix(s[1:], quote)
		s = strings.ReplaceAll(s, quote+quote, quote)
	}
	return strings.ToLower(s)
}

// tokens reads the tokens of a statement, comments and space left out.
type tokens struct {
	text string
	pos  int
}

// next returns the next token; false at the end.
func (t *tokens) next() (token, bool) {
	t.pos += skip(t.text[t.pos:])
	rest := t.text[t.pos:]
	if rest == "" {
		return token{}, false
	}
	kind, n := tokenMark, 1
	switch c := rest[0]; {
	case c == '\'':
		kind, n = tokenString, quotedLen(rest, '\'')
	case c == '"' || c == '`':
		kind, n = tokenName, quotedLen(rest, c)
	case c == '[':
		kind, n = tokenName, until(rest, 1, "]")
	case (c == 'x' || c == 'X') && len(rest) > 1 && rest[1] == '\'':
		kind, n = tokenBlob, 1+quotedLen(rest[1:], '\'')
	case isWord(c):
		kind = tokenWord
		for n < len(rest) && isWord(rest[n]) {
			n++
		}
	}
	found := token{kind: kind, text: rest[:n], start: t.pos, end: t.pos + n}
	t.pos += n
	return found, true
}

// accept reads the next token if it is the given word.
func (t *tokens) accept(word string) bool {
	before := t.pos
	if next, ok := t.next(); ok && next.is(word) {
		return true
	}
	t.pos = before
	return false
}

// table reads a table's name, with or without that of its schema.
func (t *tokens) table() (name string, ok bool) {
	found, ok := t.next()
	if ok && t.accept(".") {
		found, ok = t.next()
	}
	if !ok || found.kind == tokenMark || found.kind == tokenBlob {
		return "", false
	}
	return found.name(), true
}

// skip is the length of the space and comments that s begins with.
func skip(s string) int {
	i := 0
	for i < len(s) {
		switch {
		case strings.IndexByte(" \t\n\v\f\r", s[i]) >= 0:
			i++
		case strings.HasPrefix(s[i:], "--"):
			i += until(s[i:], 2, "\n")
		case strings.HasPrefix(s[i:], "/*"):
			i += until(s[i:], 2, "*/")
		default:
			return i
		}
	}
	return i
}

// until is the length of s up to the end of the first mark behind from, or of all of it.
func until(s string, from int, mark string) int {
	if i := strings.Index(s[from:], mark); i >= 0 {
		return from + i + len(mark)
	}
	return len(s)
}

// quotedLen is the length of the quoted text that s begins with; a doubled quote stands for one.
func quotedLen(s string, quote byte) int {
	for i := 1; i < len(s); i++ {
		if s[i] != quote {
			continue
		}
		if i+1 < len(s) && s[i+1] == quote {
			i++
			continue
		}
		return i + 1
	}
	return len(s)
}

func isWord(c byte) bool {
	return c == '_' || c == '$' || c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= 0x80
}

// createdTable returns the name of the table that a CREATE TABLE makes and of those it refers to. ok is false for any
// other statement, and for a table made from a query.
func createdTable(statement string) (name string, refers []string, ok bool) {
	t := &tokens{text: statement}
	if !t.accept("create") || !t.accept("table") {
		return "", nil, false
	}
	if t.accept("if") && !(t.accept("not") && t.accept("exists")) {
		return "", nil, false
	}
	name, ok = t.table()
	if !ok || !t.accept("(") {
		return "", nil, false
	}
	for {
		next, more := t.next()
		if !more {
			return name, refers, true
		}
		if next.kind == tokenWord && next.is("references") {
			if other, ok := t.table(); ok {
				refers = append(refers, other)
			}
		}
	}
}

// insertedTable returns the name of the table that an INSERT or REPLACE adds to.
func insertedTable(statement string) (name string, ok bool) {
	t := &tokens{text: statement}
	switch {
	case t.accept("replace"):
	case t.accept("insert"):
		if t.accept("or") {
			t.next()
		}
	default:
		return "", false
	}
	if !t.accept("into") {
		return "", false
	}
	return t.table()
}
