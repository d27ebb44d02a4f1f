package sqlsplit

import "strings"

// DistinctLists returns a statement in which lists of a column's values, IN (SELECT column FROM table), are
// IN (SELECT DISTINCT column FROM table), where known says that this column of this table may be read so. A list is a set: each value
// once is the same list. Names are given without their quotes. Statements that make names of their own, with WITH, stay as they are.
func DistinctLists(sql string, known func(table, column string) bool) (rewritten string, changed bool) {
	var out strings.Builder
	var last [7]string // the last tokens that are no space
	behind := 0        // the end of SELECT, if one of last is
	copied := 0
	for at := 0; at < len(sql); {
		token, kind := anonymousToken(sql[at:])
		at += len(token)
		if kind == anonymousSpace {
			continue
		}
		if strings.EqualFold(token, "WITH") {
			return sql, false
		}
		if strings.EqualFold(token, "SELECT") {
			behind = at
		}
		copy(last[:], last[1:])
		last[6] = token
		// IN ( SELECT column FROM table )
		if token != ")" || !strings.EqualFold(last[0], "IN") || last[1] != "(" || !strings.EqualFold(last[2], "SELECT") ||
			!strings.EqualFold(last[4], "FROM") {
			continue
		}
		column, ok := unquoted(last[3])
		if !ok {
			continue
		}
		if table, ok := unquoted(last[5]); ok && known(table, column) {
			out.WriteString(sql[copied:behind])
			out.WriteString(" DISTINCT")
			copied = behind
		}
	}
	if copied == 0 {
		return sql, false
	}
	out.WriteString(sql[copied:])
	return out.String(), true
}

// unquoted returns the name that a token is; ok is false for what is none.
func unquoted(token string) (name string, ok bool) {
	switch c := token[0]; c {
	case '"', '`':
		if len(token) < 2 || token[len(token)-1] != c {
			return "", false
		}
		return strings.ReplaceAll(token[1:len(token)-1], string([]byte{c, c}), string(c)), true
	case '[':
		return strings.TrimSuffix(token[1:], "]"), strings.HasSuffix(token, "]")
	default:
		return token, classes[c] == classWord && !isDigit(c)
	}
}
