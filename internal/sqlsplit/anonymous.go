package sqlsplit

import "strings"

// Anonymous returns the text of a statement without what may be data: with ? for every literal, "?" for every text in double
// quotes, which may be a string too, without comments, and with one space for any run of space. What is not closed ends the
// text. Longer than limit bytes it is cut, and ends in "…".
func Anonymous(sql string, limit int) string {
	var out strings.Builder
	space := false
	for sql != "" && out.Len() <= limit {
		token, kind := anonymousToken(sql)
		sql = sql[len(token):]
		if kind == anonymousSpace {
			space = out.Len() > 0
			continue
		}
		if space {
			out.WriteByte(' ')
			space = false
		}
		switch kind {
		case anonymousLiteral:
			out.WriteByte('?')
		case anonymousName:
			out.WriteString(`"?"`)
		default:
			out.WriteString(token)
		}
	}
	text := out.String()
	if len(text) <= limit {
		return text
	}
	text = text[:max(0, limit-len("…"))]
	return strings.ToValidUTF8(text, "") + "…"
}

// anonymousKind is what a token is, as far as Anonymous cares.
type anonymousKind int

const (
	anonymousAsIs    anonymousKind = iota
	anonymousSpace                 // or a comment
	anonymousLiteral               // a string, a blob or a number
	anonymousName                  // in double quotes
)

// anonymousToken returns the first token of a text that is not empty.
func anonymousToken(sql string) (token string, kind anonymousKind) {
	c := sql[0]
	switch {
	case classes[c] == classSpace:
		return sql[:1], anonymousSpace
	case strings.HasPrefix(sql, "--"):
		return sql[:commentLen(sql, "\n")], anonymousSpace
	case strings.HasPrefix(sql, "/*"):
		return sql[:commentLen(sql, "*/")], anonymousSpace
	case c == '\'':
		return sql[:quotedLen(sql, '\'')], anonymousLiteral
	case c == '"':
		return sql[:quotedLen(sql, '"')], anonymousName
	case c == '`':
		return closed(sql, quotedLen(sql, '`'), '`')
	case c == '[':
		n := strings.IndexByte(sql, ']') + 1
		if n == 0 {
			n = len(sql)
		}
		return closed(sql, n, ']')
	case (c == 'x' || c == 'X') && len(sql) > 1 && sql[1] == '\'':
		return sql[:1+quotedLen(sql[1:], '\'')], anonymousLiteral
	case isDigit(c), c == '.' && len(sql) > 1 && isDigit(sql[1]):
		return sql[:numberLen(sql)], anonymousLiteral
	case c == '?' || classes[c] == classWord:
		n := 1
		for n < len(sql) && classes[sql[n]] == classWord {
			n++
		}
		return sql[:n], anonymousAsIs
	}
	return sql[:1], anonymousAsIs
}

// closed returns a name in quotes as it is; where the quote is not closed nobody knows what it would have been.
func closed(sql string, n int, by byte) (token string, kind anonymousKind) {
	if n < 2 || sql[n-1] != by {
		return sql[:n], anonymousName
	}
	return sql[:n], anonymousAsIs
}

// quotedLen is the length of the text in quotes that sql begins with; a doubled quote is one in the text.
func quotedLen(sql string, quote byte) int {
	for i := 1; i < len(sql); i++ {
		if sql[i] != quote {
			continue
		}
		if i+1 == len(sql) || sql[i+1] != quote {
			return i + 1
		}
		i++
	}
	return len(sql)
}

// numberLen is the length of the number that sql begins with, and of what stands against it.
func numberLen(sql string) int {
	n := 1
	for n < len(sql) {
		c := sql[n]
		sign := (c == '+' || c == '-') && (sql[n-1] == 'e' || sql[n-1] == 'E') && !strings.HasPrefix(strings.ToLower(sql), "0x")
		if classes[c] != classWord && c != '.' && !sign {
			break
		}
		n++
	}
	return n
}

func isDigit(c byte) bool { return c >= '0' && c <= '9' }
