package sqlsplit

import "bytes"

// AppendNormal appends a form of a statement that is the same for statements that differ only in what changes nothing of their
// answers: space and comments between tokens, the case of SQL's reserved words, semicolons at the end. It is not for running:
// it is what answers are kept under.
//
// The names of an answer's columns are the text of their expressions, spaces and comments included. So between SELECT and the
// FROM that belongs to it only space beside the commas of that list goes away. What is not understood is appended as it is.
func AppendNormal[T ~string | ~[]byte](dst []byte, sql T) []byte {
	n := normalizer[T]{in: sql, out: dst, list: -1}
	if !n.run() {
		return append(dst, sql...)
	}
	if n.list >= 0 { // it ended in one
		n.out = bytes.TrimRight(n.out, spaces)
	}
	return n.out
}

const spaces = " \t\n\f\r"

// normalizer is the state of one AppendNormal.
type normalizer[T ~string | ~[]byte] struct {
	in    T
	at    int
	out   []byte
	depth int
	list  int // depth of the SELECT whose list this is; -1 outside of one

	space bool // there was space that is not in out yet
	begun bool // there is a token in out
	comma bool // the last token is a comma of the list, or its SELECT
	word  [16]byte
	last  []byte // the last token, if that is a word, in upper case
}

// run reports whether it has understood all.
func (n *normalizer[T]) run() bool {
	for n.at < len(n.in) {
		begin := n.at
		switch b := n.in[n.at]; {
		case b == 0:
			return false
		case classes[b] == classSpace:
			n.skip(classSpace)
			n.blank(begin)
		case b == '-' && n.next() == '-', b == '/' && n.next() == '*':
			if !n.comment(b) {
				return false
			}
		case b == ';':
			return n.isEnd()
		case classes[b] == classQuote:
			if !n.quoted(b) {
				return false
			}
			n.token(begin, nil)
		case b == ':' || b == '@' || b == '#' || b == '$' || b == '?':
			for n.skip(classWord); n.at < len(n.in) && n.in[n.at] == ':'; {
				n.skip(classWord)
			}
			if n.at < len(n.in) && n.in[n.at] == '(' {
				return false // part of a name
			}
			n.token(begin, nil)
		case classes[b] == classWord:
			n.skip(classWord)
			n.takeWord(begin)
		default:
			n.at++
			n.other(b, begin)
		}
	}
	return n.depth == 0
}

// skip passes over a byte and those of a class behind it.
func (n *normalizer[T]) skip(c class) {
	n.at++
	for n.at < len(n.in) && classes[n.in[n.at]] == c {
		n.at++
	}
}

func (n *normalizer[T]) next() byte {
	if n.at+1 < len(n.in) {
		return n.in[n.at+1]
	}
	return 0
}

// isEnd reports whether nothing but space, comments and semicolons follows.
func (n *normalizer[T]) isEnd() bool {
	return n.depth == 0 && blank(string(n.in[n.at:])) == len(n.in)-n.at
}

// blank notes space.
func (n *normalizer[T]) blank(begin int) {
	switch {
	case n.list < 0 || n.depth == n.list && n.comma:
		n.space = true
	case n.depth == n.list && n.at < len(n.in) && n.in[n.at] == ',':
	default: // of a column's name, unless the list ends here
		n.out = append(n.out, n.in[begin:n.at]...)
	}
}

// comment takes a comment, of which one in a list may be part of a name. It reports false where SQLite may see none.
func (n *normalizer[T]) comment(b byte) bool {
	begin := n.at
	// A comment up to the line's end is nothing without that end, and in a list a name may have the one without the other.
	if b == '/' && n.at+2 == len(n.in) || b == '-' && n.list >= 0 {
		return false
	}
	closer := "\n"
	if b == '/' {
		closer = "*/"
	}
	n.at += commentLen(string(n.in[n.at:]), closer)
	if n.list < 0 {
		n.space = true
		return true
	}
	n.token(begin, nil)
	return true
}

// quoted takes what is in quotes, of which two within are two that follow each other. It reports false if they do not end.
func (n *normalizer[T]) quoted(b byte) bool {
	if b == '[' {
		b = ']'
	}
	for n.at++; n.at < len(n.in); n.at++ {
		switch n.in[n.at] {
		case 0:
			return false
		case b:
			n.at++
			return true
		}
	}
	return false
}

func (n *normalizer[T]) other(b byte, begin int) {
	n.token(begin, nil)
	switch b {
	case '(':
		n.depth++
	case ')':
		if n.depth--; n.depth < n.list {
			n.list = -1
		}
	case ',':
		n.comma = n.depth == n.list
	}
}

// takeWord takes a word: the reserved ones in upper case outside of lists.
func (n *normalizer[T]) takeWord(begin int) {
	var upper []byte
	if size := n.at - begin; size <= len(n.word) {
		before := string(n.last) == "DISTINCT"
		afterOrder := string(n.last) == "ORDER" || string(n.last) == "GROUP"
		upper = n.word[:size]
		for i := range upper {
			b := n.in[begin+i]
			if b >= 'a' && b <= 'z' {
				b -= 'a' - 'A'
			}
			upper[i] = b
		}
		switch {
		case n.list >= 0 && n.depth == n.list && string(upper) == "FROM" && !before:
			n.list = -1
			n.out = bytes.TrimRight(n.out, spaces)
			n.space = true
		case n.list < 0 && string(upper) == "SELECT":
			n.token(begin, upper)
			n.list, n.comma = n.depth, true
			return
		}
		if n.list < 0 && (reserved[string(upper)] || afterOrder && string(upper) == "BY") {
			n.token(begin, upper)
			return
		}
	}
	n.token(begin, nil)
	n.last = upper
}

// token appends a token, as it is or as the word that it is.
func (n *normalizer[T]) token(begin int, word []byte) {
	behindComma := n.comma && n.list >= 0 && n.out[len(n.out)-1] == ','
	if n.space && n.begun && !behindComma {
		n.out = append(n.out, ' ')
	}
	n.space, n.begun, n.comma, n.last = false, true, false, word
	if word != nil {
		n.out = append(n.out, word...)
	} else {
		n.out = append(n.out, n.in[begin:n.at]...)
	}
}

// reserved are words that SQLite takes for nothing else, unless they are in quotes.
var reserved = map[string]bool{
	"ALL": true, "AND": true, "AS": true, "BETWEEN": true, "CASE": true, "COLLATE": true, "DISTINCT": true, "ELSE": true,
	"EXCEPT": true, "EXISTS": true, "FROM": true, "GROUP": true, "HAVING": true, "IN": true, "INTERSECT": true, "IS": true,
	"ISNULL": true, "JOIN": true, "LIMIT": true, "NOT": true, "NOTNULL": true, "NULL": true, "ON": true, "OR": true,
	"ORDER": true, "SELECT": true, "THEN": true, "UNION": true, "USING": true, "VALUES": true, "WHEN": true, "WHERE": true,
}
