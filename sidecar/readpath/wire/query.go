package wire

import "unicode/utf8"

// Limits of a QueryRequest that is read here.
const (
	maxSQL        = 16 << 10
	maxParameters = 1000
)

// Query is a QueryRequest. Its bytes are the message's.
type Query struct {
	Request // without table and keys

	SQL []byte
	// Parameters are the encoded positional parameters, as fields of the Statement: the only ones that are read here.
	Parameters []byte
}

// Parse reads a QueryRequest and reports whether it could.
func (q *Query) Parse(msg []byte) bool {
	*q = Query{}
	var statement, consistency []byte
	for len(msg) > 0 {
		tag := msg[0]
		field, rest, ok := bytes(msg[1:])
		if !ok {
			return false
		}
		msg = rest
		switch {
		case tag == tag1Bytes && q.Database == nil:
			q.Database = field
		case tag == tag2Bytes && statement == nil:
			statement = field
		case tag == tag3Bytes && consistency == nil:
			consistency = field
		default:
			return false
		}
	}
	return isName(q.Database) && q.statement(statement) && q.consistency(consistency)
}

func (q *Query) statement(b []byte) bool {
	if len(b) == 0 || b[0] != tag1Bytes {
		return false
	}
	sql, rest, ok := bytes(b[1:])
	if !ok || len(sql) == 0 || len(sql) > maxSQL || !utf8.Valid(sql) {
		return false
	}
	q.SQL, q.Parameters = sql, rest
	for n := 0; len(rest) > 0; n++ {
		tag := rest[0]
		field, next, ok := bytes(rest[1:])
		if !ok || tag != tag2Bytes || n == maxParameters || !isParameter(field) {
			return false
		}
		rest = next
	}
	return true
}

// isParameter reports whether b is a Value, as package proto would write it.
func isParameter(b []byte) bool {
	if len(b) == 0 || len(b) == 2 && b[0] == tag1Varint && b[1] == 0 {
		return true // NULL
	}
	_, ok := valueOf(b)
	return ok
}
