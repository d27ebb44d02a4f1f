// Package sqllogictest reads and runs files of SQLite's sqllogictest corpus
// (https://sqlite.org/sqllogictest/doc/trunk/about.wiki): statements, and queries with the answers expected.
//
// It says what an answer is worth; where statements and queries are run is the caller's.
package sqllogictest

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"strings"
)

// Kind is what a record is.
type Kind int

// The kinds of records.
const (
	StatementOK    Kind = iota // a statement that must succeed
	StatementError             // one that must fail
	Query                      // a query with its answer
)

// Sort says how the values of an answer are ordered before they are compared.
type Sort int

// The ways to sort.
const (
	SortNot    Sort = iota
	SortRows        // row by row
	SortValues      // all values
)

// Record is one thing to do.
type Record struct {
	Kind  Kind
	Line  int // of its first line, from 1
	SQL   string
	Types string // of a query: I, R or T for each column
	Sort  Sort
	Label string // queries of one label have one answer
	// Expected is the answer: a value a line, or "N values hashing to MD5". Checked is false for a query without one.
	Expected []string
	Checked  bool
}

// engine is the name by which skipif and onlyif mean us.
const engine = "sqlite"

// maxLine bounds a line of a file.
const maxLine = 16 << 20

// Parser reads the records of a file that are for SQLite, up to a halt.
type Parser struct {
	in     *bufio.Scanner
	line   int
	record Record
	err    error
}

// NewParser returns a parser of a file.
func NewParser(r io.Reader) *Parser {
	p := &Parser{in: bufio.NewScanner(r)}
	p.in.Buffer(nil, maxLine)
	return p
}

// Record returns the record that Next found.
func (p *Parser) Record() Record { return p.record }

// Err returns what ended the file early, or nil.
func (p *Parser) Err() error { return p.err }

// next returns the next line without what ends it.
func (p *Parser) next() (line string, ok bool) {
	if !p.in.Scan() {
		if err := p.in.Err(); err != nil {
			p.err = fmt.Errorf("line %d: %w", p.line+1, err)
		}
		return "", false
	}
	p.line++
	return strings.TrimRight(p.in.Text(), "\r"), true
}

// Next goes to the next record and reports whether there is one.
func (p *Parser) Next() bool {
	skip := false
	for p.err == nil {
		line, ok := p.next()
		if !ok {
			return false
		}
		if i := strings.IndexByte(line, '#'); i >= 0 {
			line = line[:i]
		}
		words := strings.Fields(line)
		if len(words) == 0 {
			continue
		}
		switch words[0] {
		case "skipif", "onlyif":
			if len(words) != 2 {
				p.fail(fmt.Errorf("%s of %d names", words[0], len(words)-1))
				return false
			}
			skip = skip || (words[1] == engine) == (words[0] == "skipif")
			continue
		case "halt":
			if skip {
				skip = false
				continue
			}
			return false
		case "hash-threshold":
			skip = false // answers say themselves whether they are hashes
			continue
		}
		p.record = Record{Line: p.line}
		if err := p.read(words); err != nil {
			p.fail(err)
			return false
		}
		if p.err == nil && !skip {
			return true
		}
		skip = false
	}
	return false
}

func (p *Parser) fail(err error) {
	if p.err == nil {
		p.err = fmt.Errorf("line %d: %w", p.line, err)
	}
}

var errRecord = errors.New("not a record")

// read reads the record that a line begins.
func (p *Parser) read(words []string) error {
	r := &p.record
	switch {
	case words[0] == "statement" && len(words) == 2 && words[1] == "ok":
		r.Kind = StatementOK
	case words[0] == "statement" && len(words) == 2 && words[1] == "error":
		r.Kind = StatementError
	case words[0] == "query" && len(words) >= 2 && len(words) <= 4:
		r.Kind, r.Types = Query, words[1]
		if strings.Trim(r.Types, "IRT") != "" {
			return fmt.Errorf("%w: column types %q", errRecord, r.Types)
		}
		if len(words) > 2 {
			sort, ok := map[string]Sort{"nosort": SortNot, "rowsort": SortRows, "valuesort": SortValues}[words[2]]
			if !ok {
				return fmt.Errorf("%w: sort %q", errRecord, words[2])
			}
			r.Sort = sort
		}
		if len(words) > 3 {
			r.Label = words[3]
		}
	default:
		return fmt.Errorf("%w: %q", errRecord, strings.Join(words, " "))
	}
	var sql []string
	for {
		line, ok := p.next()
		if !ok || strings.TrimSpace(line) == "" {
			break
		}
		if r.Kind == Query && line == "----" {
			r.Checked = true
			r.Expected = p.lines()
			break
		}
		sql = append(sql, line)
	}
	if r.SQL = strings.Join(sql, "\n"); r.SQL == "" && p.err == nil {
		return fmt.Errorf("%w: without SQL", errRecord)
	}
	return nil
}

// lines reads up to an empty line.
func (p *Parser) lines() (lines []string) {
	for {
		line, ok := p.next()
		if !ok || line == "" {
			return lines
		}
		lines = append(lines, line)
	}
}
