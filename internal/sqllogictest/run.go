package sqllogictest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strings"

	"github.com/nearside-dev/nearside/internal/value"
)

// ErrStatement is an error of Side's that is the statement's own, and not one of the way to where it is run.
var ErrStatement = errors.New("statement failed")

// Side runs statements and queries.
type Side interface {
	// Execute runs one statement or several, which may write.
	Execute(ctx context.Context, sql string) error
	// Query runs a query, after all statements executed before. edge asks the region, which may pass it on: fallback says so.
	Query(ctx context.Context, sql string, edge bool) (rows [][]value.Value, fallback bool, err error)
}

// Report is what became of a file.
type Report struct {
	Passed, Failed, Skipped int
	Queries                 int      // of the records
	Fallbacks               int      // queries that the region passed on
	Reasons                 string   // why, where the caller found out: schema 2, indexed 1
	Failures                []string // the first ones
}

// maxFailures bounds Report.Failures.
const maxFailures = 20

// runner runs one file.
type runner struct {
	Report

	side      Side
	edge      bool
	labels    map[string]string // label → sum of its answer
	temporary map[string]bool   // views that were not made
}

// Run runs a file. With edge set every query is asked in the region too. The error is ctx's, or that of a file that is none.
func Run(ctx context.Context, file io.Reader, side Side, edge bool) (Report, error) {
	r := &runner{side: side, edge: edge, labels: make(map[string]string), temporary: make(map[string]bool)}
	p := NewParser(file)
	for p.Next() {
		record := p.Record()
		if err := ctx.Err(); err != nil {
			return r.Report, err
		}
		switch err := r.record(ctx, &record); {
		case r.skips(&record):
			r.Skipped++
		case err != nil:
			r.fail(fmt.Sprintf("line %d: %v\n%s", record.Line, err, record.SQL))
		default:
			r.Passed++
		}
	}
	return r.Report, p.Err()
}

func (r *runner) fail(text string) {
	if r.Failed++; len(r.Failures) < maxFailures {
		r.Failures = append(r.Failures, text)
	}
}

// temporaryView finds the statements that make a temporary view, which no caller may.
var temporaryView = regexp.MustCompile(`(?i)^\s*CREATE\s+TEMP(?:ORARY)?\s+VIEW\s+(?:IF\s+NOT\s+EXISTS\s+)?"?(\w+)`)

// dropView finds the view that a statement drops.
var dropView = regexp.MustCompile(`(?i)^\s*DROP\s+VIEW\s+(?:IF\s+EXISTS\s+)?"?(\w+)`)

// skips reports whether a record is about a temporary view.
func (r *runner) skips(record *Record) bool {
	if temporaryView.MatchString(record.SQL) {
		return true
	}
	m := dropView.FindStringSubmatch(record.SQL)
	return m != nil && r.temporary[strings.ToLower(m[1])]
}

func (r *runner) record(ctx context.Context, record *Record) error {
	if m := temporaryView.FindStringSubmatch(record.SQL); m != nil {
		r.temporary[strings.ToLower(m[1])] = true
	}
	if r.skips(record) {
		return nil
	}
	switch record.Kind {
	case StatementOK:
		return r.side.Execute(ctx, record.SQL)
	case StatementError:
		switch err := r.side.Execute(ctx, record.SQL); {
		case err == nil:
			return errNone
		case !errors.Is(err, ErrStatement):
			return err
		}
		return nil
	default:
		r.Queries++
		return r.query(ctx, record)
	}
}

var errNone = errors.New("no error")

func (r *runner) query(ctx context.Context, record *Record) error {
	rows, _, err := r.side.Query(ctx, record.SQL, false)
	if err := r.check(record, rows, err); err != nil {
		return fmt.Errorf("primary: %w", err)
	}
	if !r.edge {
		return nil
	}
	rows, fallback, err := r.side.Query(ctx, record.SQL, true)
	if fallback {
		r.Fallbacks++
	}
	if err := r.check(record, rows, err); err != nil {
		return fmt.Errorf("region: %w", err)
	}
	return nil
}

func (r *runner) check(record *Record, rows [][]value.Value, err error) error {
	if errors.Is(err, ErrStatement) && record.Checked && len(record.Expected) == 0 {
		return nil // SQLite's own runner takes no notice of errors while a query runs
	}
	if err != nil {
		return err
	}
	if err := record.Check(rows); err != nil {
		return err
	}
	if record.Label == "" {
		return nil
	}
	values, err := record.Values(rows)
	if err != nil {
		return err
	}
	sum := Hash(values)
	if before, ok := r.labels[record.Label]; ok && before != sum {
		return fmt.Errorf("another answer than the query of label %s before it", record.Label)
	}
	r.labels[record.Label] = sum
	return nil
}
