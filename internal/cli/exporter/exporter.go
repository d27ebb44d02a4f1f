package exporter

import (
	"bufio"
	"errors"
	"fmt"
	"io"

	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
)

// Summary is what was exported.
type Summary struct {
	Tables int
	Rows   int64
	Answer *datav1.Answer // its bookmark names the one state that everything is of
}

// Stream is an export as it arrives.
type Stream interface {
	Receive() bool
	Msg() *datav1.ExportResponse
	Err() error
}

// Format writes what Run reads. Rows are of the table that began last.
type Format interface {
	Schema(objects []*datav1.ExportResponse_Object, answer *datav1.Answer) error
	Table(t *datav1.ExportResponse_Table) error
	Rows(rows []*datav1.Row) error
	// End is called when all is there, and only then.
	End() error
}

// errCut is a stream without its end.
var errCut = errors.New("the export ended before it was whole")

// Run writes an export. After an error what was written is not whole.
func Run(in Stream, f Format) (s Summary, err error) {
	ended := false
	for first := true; in.Receive(); first = false {
		msg := in.Msg()
		if first {
			if err := f.Schema(msg.GetSchema(), msg.GetAnswer()); err != nil {
				return s, err
			}
		} else if msg.GetAnswer() != nil {
			s.Answer, ended = msg.GetAnswer(), true
		}
		if msg.GetTable() != nil {
			s.Tables++
			if err := f.Table(msg.GetTable()); err != nil {
				return s, fmt.Errorf("table %s: %w", msg.GetTable().GetName(), err)
			}
		}
		if len(msg.GetRows()) > 0 {
			s.Rows += int64(len(msg.GetRows()))
			if err := f.Rows(msg.GetRows()); err != nil {
				return s, err
			}
		}
	}
	if err := in.Err(); err != nil {
		return s, err
	}
	if !ended {
		return s, errCut
	}
	return s, f.End()
}

// OpenFunc opens the file of a table.
type OpenFunc func(table string) (io.WriteCloser, error)

// tables writes each table into a file of its own.
type tables struct {
	open    OpenFunc
	file    io.WriteCloser
	out     *bufio.Writer
	buf     []byte
	columns []*datav1.Column
	skip    int // values before those of the columns

	header func(*tables)
	row    func(*tables, []*datav1.Value)
}

// Schema implements Format.
func (*tables) Schema([]*datav1.ExportResponse_Object, *datav1.Answer) error { return nil }

// Table implements Format.
func (t *tables) Table(table *datav1.ExportResponse_Table) (err error) {
	if err := t.End(); err != nil {
		return err
	}
	if t.file, err = t.open(table.GetName()); err != nil {
		return err
	}
	t.out = bufio.NewWriterSize(t.file, bufferBytes)
	t.columns, t.skip = table.GetColumns(), 0
	if table.GetRowid() != "" {
		t.skip = 1
	}
	t.buf = t.buf[:0]
	t.header(t)
	_, err = t.out.Write(t.buf)
	return err
}

const bufferBytes = 64 << 10

// Rows implements Format.
func (t *tables) Rows(rows []*datav1.Row) error {
	for _, row := range rows {
		if len(row.GetValues()) != t.skip+len(t.columns) {
			return fmt.Errorf("a row has %d values for %d columns", len(row.GetValues()), len(t.columns))
		}
		t.buf = t.buf[:0]
		t.row(t, row.GetValues()[t.skip:])
		if _, err := t.out.Write(t.buf); err != nil {
			return err
		}
	}
	return nil
}

// End implements Format.
func (t *tables) End() error {
	if t.file == nil {
		return nil
	}
	err := errors.Join(t.out.Flush(), t.file.Close())
	t.file = nil
	return err
}
