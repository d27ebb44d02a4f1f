package importer

import (
	"errors"
	"fmt"
	"strings"

	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
)

// statementsOf returns a statement of a dump as the primary takes it: as one, or an INSERT of very many rows as several that do
// the same.
func statementsOf(text string, role role) ([]*datav1.Statement, error) {
	whole, err := statementOf(text, role)
	if err == nil {
		return []*datav1.Statement{whole}, nil
	}
	if role != roleRows {
		return nil, err
	}
	pieces := split(text)
	statements := make([]*datav1.Statement, len(pieces))
	for i, piece := range pieces {
		statement, pieceErr := statementOf(piece, role)
		if pieceErr != nil {
			return nil, err
		}
		statements[i] = statement
	}
	if len(statements) == 0 {
		return nil, err
	}
	return statements, nil
}

// split divides an INSERT … VALUES (…), (…), … into statements of at most MaxStatementBytes or of one row. What stands behind
// the rows, ON CONFLICT or RETURNING, goes with each. It returns nothing for a statement of another form.
func split(text string) []string {
	in := &tokens{text: text}
	head, err := insertHead(in)
	if err != nil {
		return nil
	}
	rows, tail, err := rowsOf(in)
	if err != nil {
		return nil
	}
	var pieces []string
	var b strings.Builder
	for i, row := range rows {
		if b.Len() == 0 {
			b.WriteString(head)
		} else {
			b.WriteByte(',')
		}
		b.WriteString(row)
		if i == len(rows)-1 || b.Len()+len(rows[i+1])+len(tail)+2 > MaxStatementBytes {
			b.WriteByte(' ')
			b.WriteString(tail)
			pieces = append(pieces, b.String())
			b.Reset()
		}
	}
	return pieces
}

var errOtherForm = errors.New("no INSERT … VALUES")

// insertHead reads up to and with VALUES, and returns that.
func insertHead(in *tokens) (string, error) {
	first, ok := in.next()
	if !ok || !strings.EqualFold(first.text, "INSERT") && !strings.EqualFold(first.text, "REPLACE") {
		return "", errOtherForm
	}
	for depth := 0; ; {
		t, ok := in.next()
		switch {
		case !ok:
			return "", errOtherForm
		case t.text == "(":
			depth++
		case t.text == ")":
			depth--
		case t.kind != tokenWord || depth > 0:
		case strings.EqualFold(t.text, "SELECT"), strings.EqualFold(t.text, "WITH"):
			return "", errOtherForm
		case strings.EqualFold(t.text, "VALUES"):
			return in.text[:t.end], nil
		}
	}
}

// rowsOf reads the rows behind VALUES, and returns them and what stands behind them.
func rowsOf(in *tokens) (rows []string, tail string, err error) {
	for {
		row, err := rowOf(in)
		if err != nil {
			return nil, "", err
		}
		rows = append(rows, row)
		t, ok := in.next()
		switch {
		case !ok || t.text == ";":
			return rows, "", nil
		case t.text == ",":
		case strings.EqualFold(t.text, "ON"), strings.EqualFold(t.text, "RETURNING"):
			return rows, in.text[t.start:], nil
		default:
			return nil, "", fmt.Errorf("%w: %q behind a row", errOtherForm, t.text)
		}
	}
}

// rowOf reads one (…).
func rowOf(in *tokens) (string, error) {
	begin := -1
	for depth := 0; ; {
		t, ok := in.next()
		switch {
		case !ok || begin < 0 && t.text != "(":
			return "", errOtherForm
		case t.text == "(":
			if begin < 0 {
				begin = t.start
			}
			depth++
		case t.text == ")":
			if depth--; depth == 0 {
				return in.text[begin:t.end], nil
			}
		}
	}
}
