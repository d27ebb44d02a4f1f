package importer

import (
	"encoding/hex"
	"fmt"
	"strings"
	"unicode/utf8"

	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
)

// maxParameters is how many parameters a statement may have.
const maxParameters = 32_766

// statementOf returns the statement as the primary takes it: at most MaxStatementBytes of valid UTF-8. Where a statement of
// rows is not that, literals of it go as parameters: the longest ones, and those that are not UTF-8.
func statementOf(text string, role role) (*datav1.Statement, error) {
	if accepted(text) {
		return &datav1.Statement{Sql: text}, nil
	}
	if role == roleRows {
		for _, limit := range []int{1 << 10, 1 << 6, 1 << 3} {
			if lifted := lift(text, limit); accepted(lifted.GetSql()) {
				return lifted, nil
			}
		}
	}
	if !utf8.ValidString(text) {
		return nil, fmt.Errorf("the statement is not valid UTF-8")
	}
	return nil, fmt.Errorf("the statement is longer than %d MiB", MaxStatementBytes>>20)
}

func accepted(sql string) bool { return len(sql) <= MaxStatementBytes && utf8.ValidString(sql) }

// lift replaces the literals of a statement that are longer than limit, or are not UTF-8, by parameters.
func lift(text string, limit int) *datav1.Statement {
	lifted := &datav1.Statement{}
	var sql strings.Builder
	copied := 0
	for t := (&tokens{text: text}); ; {
		next, ok := t.next()
		if !ok {
			break
		}
		if len(next.text) <= limit && utf8.ValidString(next.text) || len(lifted.Parameters) == maxParameters {
			continue
		}
		v, ok := literal(next)
		if !ok {
			continue
		}
		sql.WriteString(text[copied:next.start])
		sql.WriteByte('?')
		copied = next.end
		lifted.Parameters = append(lifted.Parameters, v)
	}
	sql.WriteString(text[copied:])
	lifted.Sql = sql.String()
	return lifted
}

// literal returns the value of a closed literal.
func literal(t token) (*datav1.Value, bool) {
	switch t.kind {
	case tokenString:
		if len(t.text) < 2 || t.text[len(t.text)-1] != '\'' {
			return nil, false
		}
		s := strings.ReplaceAll(t.text[1:len(t.text)-1], "''", "'")
		if !utf8.ValidString(s) {
			return &datav1.Value{Kind: &datav1.Value_TextBytes{TextBytes: []byte(s)}}, true
		}
		return &datav1.Value{Kind: &datav1.Value_Text{Text: s}}, true
	case tokenBlob:
		b, err := hex.DecodeString(strings.TrimSuffix(t.text[2:], "'"))
		return &datav1.Value{Kind: &datav1.Value_Blob{Blob: b}}, err == nil
	default:
		return nil, false
	}
}
