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
