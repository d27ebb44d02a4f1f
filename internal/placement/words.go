package placement

import "github.com/nearside-dev/nearside/internal/catalog"

// maxName is how long, in bytes, the names are that names looks for in quotes.
const maxName = 1024

// names calls f with each name that a statement may mean a table by: its words, and what stands in any of SQLite's quotes, in
// lower case. What is text or a comment counts too, and each quote may begin one, whatever is before it: so none that means a table
// is missed, and what is withheld for a word too many is read at the primary.
func names(sql string, f func(string)) {
	for i := 0; i < len(sql); {
		switch c := sql[i]; {
		case isWord(c):
			end := i + 1
			for end < len(sql) && isWord(sql[end]) {
				end++
			}
			f(catalog.Fold(sql[i:end]))
			i = end
		case c == '"' || c == '\'' || c == '`' || c == '[':
			f(catalog.Fold(quoted(sql[i:])))
			i++
		default:
			i++
		}
	}
}

// quoted returns the name in the quotes that sql begins with, or as much of it as matters.
func quoted(sql string) string {
	closer := sql[0]
	if closer == '[' {
		closer = ']'
	}
	var name []byte
	for i := 1; i < len(sql) && len(name) <= maxName; i++ {
		if sql[i] == closer {
			if closer == ']' || i+1 == len(sql) || sql[i+1] != closer {
				break
			}
			i++
		}
		name = append(name, sql[i])
	}
	return string(name)
}

func isWord(c byte) bool {
	return c|0x20 >= 'a' && c|0x20 <= 'z' || c >= '0' && c <= '9' || c == '_' || c == '$' || c >= 0x80
}
