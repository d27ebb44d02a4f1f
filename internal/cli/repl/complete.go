package repl

import (
	"slices"
	"strings"
	"unicode/utf8"
)

// Names are what SQL of a database can name.
type Names struct {
	Tables  []string
	Columns map[string][]string // by table
}

// keywords are those that a person may want to have typed.
var keywords = strings.Fields(`ABORT ADD ALL ALTER ANALYZE AND AS ASC BEGIN BETWEEN BY CASE CAST CHECK COLLATE COLUMN CONFLICT
	CONSTRAINT CREATE CROSS CURRENT_DATE CURRENT_TIME CURRENT_TIMESTAMP DEFAULT DELETE DESC DISTINCT DO DROP ELSE END ESCAPE
	EXCEPT EXISTS EXPLAIN FILTER FOREIGN FROM FULL GENERATED GLOB GROUP HAVING IF IN INDEX INNER INSERT INTERSECT INTO IS JOIN
	KEY LEFT LIKE LIMIT NATURAL NOCASE NOT NOTHING NULL NULLS OFFSET ON OR ORDER OUTER OVER PARTITION PRAGMA PRIMARY QUERY
	RECURSIVE REFERENCES RENAME REPLACE RETURNING RIGHT ROWID SELECT SET STRICT TABLE THEN TO TRIGGER UNION UNIQUE UPDATE USING
	VALUES VIEW WHEN WHERE WINDOW WITH WITHOUT`)

// maxCompletions bounds what one Tab offers.
const maxCompletions = 100

// Complete returns what the word before the cursor can become: head and tail are the line around it. pos counts runes. The
// columns of tables that the line names stand first.
func Complete(line string, pos int, names Names, commands []string) (head string, words []string, tail string) {
	cut := len(line)
	for i := range line {
		if pos == 0 {
			cut = i
			break
		}
		pos--
	}
	head, tail = line[:cut], line[cut:]
	start := len(head)
	for start > 0 {
		r, size := utf8.DecodeLastRuneInString(head[:start])
		if !wordRune(r) {
			break
		}
		start -= size
	}
	word := head[start:]
	head = head[:start]
	if strings.TrimSpace(head) == "" && strings.HasPrefix(word, ".") {
		return head, matching(word[1:], commands, func(c string) string { return "." + c }), tail
	}
	if word == "" {
		return head, nil, tail
	}
	if dot := strings.LastIndexByte(word, '.'); dot >= 0 {
		for table, columns := range names.Columns {
			if strings.EqualFold(table, word[:dot]) {
				return head + word[:dot+1], matching(word[dot+1:], columns, quoted), tail
			}
		}
		return head, nil, tail
	}
	for _, group := range candidates(line, names) {
		words = append(words, matching(word, group, quoted)...)
	}
	words = append(words, matching(word, keywords, func(k string) string {
		if word == strings.ToLower(word) {
			return strings.ToLower(k)
		}
		return k
	})...)
	return head, unique(words), tail
}

// candidates are the names that a line may want, in groups, the likeliest first.
func candidates(line string, names Names) [][]string {
	named := make(map[string]bool)
	for _, w := range strings.FieldsFunc(strings.ToLower(line), func(r rune) bool { return !wordRune(r) }) {
		named[w] = true
	}
	var near, far []string
	for _, table := range names.Tables {
		if named[strings.ToLower(table)] {
			near = append(near, names.Columns[table]...)
		} else {
			far = append(far, names.Columns[table]...)
		}
	}
	return [][]string{near, names.Tables, far}
}

// matching returns those of a list that begin with a prefix, in any case, written by form.
func matching(prefix string, list []string, form func(string) string) []string {
	var found []string
	for _, s := range list {
		if len(s) >= len(prefix) && strings.EqualFold(s[:len(prefix)], prefix) {
			found = append(found, form(s))
		}
	}
	slices.Sort(found)
	return found
}

// unique drops repeats and what is too much.
func unique(words []string) []string {
	seen := make(map[string]bool, len(words))
	return slices.DeleteFunc(words, func(w string) bool {
		again := seen[w] || len(seen) == maxCompletions
		seen[w] = seen[w] || len(seen) < maxCompletions
		return again
	})
}

func wordRune(r rune) bool {
	return r == '_' || r == '.' || r == '$' || r >= '0' && r <= '9' || r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= utf8.RuneSelf
}

// quoted returns a name as SQL takes it.
func quoted(name string) string {
	plain := name != "" && (name[0] < '0' || name[0] > '9') && !slices.Contains(keywords, strings.ToUpper(name))
	for _, r := range name {
		plain = plain && wordRune(r) && r != '.'
	}
	if plain {
		return name
	}
	return `"` + strings.ReplaceAll(name, `"`, `""`) + `"`
}
