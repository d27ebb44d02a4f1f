package graphql

import (
	"encoding/json"
	"unicode/utf8"
)

// quickRequest is a request as it mostly is: a query, and variables that are no lists or objects.
type quickRequest struct {
	query, operation []byte
	vars             map[string]any

	text []byte // of strings with escapes
}

// read reads a request, and reports whether it could. What it reads means what package json reads; what it does not is for that.
func (q *quickRequest) read(body []byte) bool {
	*q = quickRequest{text: q.text[:0]}
	s := quickScanner{rest: body, text: &q.text}
	seen := 0
	ok := s.object(func(name []byte) bool {
		var known int
		ok := false
		switch string(name) {
		case "query":
			known = 1
			q.query, ok = s.string()
		case "operationName":
			known = 2
			if s.word("null") {
				ok = true
				break
			}
			q.operation, ok = s.string()
		case "variables":
			known = 4
			if s.word("null") {
				ok = true
				break
			}
			q.vars = make(map[string]any, 4)
			ok = s.object(func(name []byte) bool { return q.variable(&s, string(name)) })
		}
		if seen&known != 0 {
			return false
		}
		seen |= known
		return ok
	})
	s.space()
	return ok && len(s.rest) == 0 && len(q.query) > 0
}

func (q *quickRequest) variable(s *quickScanner, name string) bool {
	if _, twice := q.vars[name]; twice {
		return false
	}
	switch s.space(); {
	case s.word("null"):
		q.vars[name] = nil
	case s.word("true"):
		q.vars[name] = true
	case s.word("false"):
		q.vars[name] = false
	case len(s.rest) > 0 && s.rest[0] == '"':
		text, ok := s.string()
		q.vars[name] = string(text)
		return ok
	default:
		number, ok := s.integer()
		q.vars[name] = json.Number(number)
		return ok
	}
	return true
}

// quickScanner reads JSON.
type quickScanner struct {
	rest []byte
	text *[]byte
}

func (s *quickScanner) space() {
	for len(s.rest) > 0 && (s.rest[0] == ' ' || s.rest[0] == '\n' || s.rest[0] == '\t' || s.rest[0] == '\r') {
		s.rest = s.rest[1:]
	}
}

func (s *quickScanner) take(c byte) bool {
	s.space()
	if len(s.rest) == 0 || s.rest[0] != c {
		return false
	}
	s.rest = s.rest[1:]
	return true
}

func (s *quickScanner) word(text string) bool {
	s.space()
	if len(s.rest) < len(text) || string(s.rest[:len(text)]) != text {
		return false
	}
	s.rest = s.rest[len(text):]
	return true
}

// object reads an object; member reads the value of each name.
func (s *quickScanner) object(member func(name []byte) bool) bool {
	if !s.take('{') {
		return false
	}
	if s.take('}') {
		return true
	}
	for {
		name, ok := s.string()
		if !ok || !s.take(':') || !member(name) {
			return false
		}
		if s.take('}') {
			return true
		}
		if !s.take(',') {
			return false
		}
	}
}

// escapes are those that are read here, all but those by number.
var escapes = [256]byte{'n': '\n', 't': '\t', 'r': '\r', 'b': '\b', 'f': '\f', '"': '"', '\\': '\\', '/': '/'}

// string reads a string. What it returns is of the body, or of s.text.
func (s *quickScanner) string() ([]byte, bool) {
	if !s.take('"') {
		return nil, false
	}
	start := len(*s.text)
	from := 0
	for i := 0; i < len(s.rest); i++ {
		switch c := s.rest[i]; {
		case c == '"':
			text := s.rest[from:i]
			s.rest = s.rest[i+1:]
			if len(*s.text) > start {
				*s.text = append(*s.text, text...)
				text = (*s.text)[start:]
			}
			return text, utf8.Valid(text) // else what is no UTF-8 becomes U+FFFD
		case c < ' ':
			return nil, false
		case c == '\\':
			if i+1 == len(s.rest) || escapes[s.rest[i+1]] == 0 {
				return nil, false
			}
			*s.text = append(append(*s.text, s.rest[from:i]...), escapes[s.rest[i+1]])
			i++
			from = i + 1
		}
	}
	return nil, false
}

// integer reads a whole number.
func (s *quickScanner) integer() (string, bool) {
	n := 0
	for n < len(s.rest) && (s.rest[n] >= '0' && s.rest[n] <= '9' || n == 0 && s.rest[n] == '-') {
		n++
	}
	text := string(s.rest[:n])
	digits := text
	if n > 0 && text[0] == '-' {
		digits = text[1:]
	}
	if digits == "" || len(digits) > 1 && digits[0] == '0' || n < len(s.rest) && (s.rest[n] == '.' || s.rest[n]|0x20 == 'e') {
		return "", false
	}
	s.rest = s.rest[n:]
	return text, true
}
