package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"

	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/internal/cli/exporter"
	"github.com/nearside-dev/nearside/internal/cli/render"
)

// The formats of an export.
const (
	exportSQL   = "sql"
	exportCSV   = "csv"
	exportJSONL = "jsonl"
)

func (app *App) exportCommand() *cobra.Command {
	e := &exportRun{app: app}
	var db *string
	var primary bool
	cmd := &cobra.Command{
		Use:   "export",
		Short: "Write a database out: as an SQL dump, or its tables as CSV or JSON lines",
		Long: `Write a database as an SQL dump, which "nearside import" and sqlite3 read back to an
equal one, or its tables as CSV or JSON lines, one file for each in a new folder.

All of it is of one version of the database, the one that the printed bookmark
names: the primary reads it in one read transaction of at most an hour. Nothing is
held in memory, here or there, so any size goes through. A file or folder has its
name only when it is whole; standard output is whole if the exit code is 0.

In CSV, NULL is nothing at all and an empty text is "". In CSV and JSON lines
hidden rowids are left out.`,
		Example: `  nearside export --db shop --output shop.sql
  nearside export --db shop --format csv --output shop/
  nearside export --db shop --format jsonl --table items | head`,
		Args: cobra.NoArgs,
		RunE: app.Run(func(cmd *cobra.Command, _ []string) error {
			if err := e.check(); err != nil {
				return err
			}
			if err := e.target.connect(cmd); err != nil {
				return err
			}
			e.request.Database = *db
			return e.run(cmd.Context())
		}),
	}
	e.target.register(cmd)
	db = e.target.database(cmd)
	e.request.Consistency = &datav1.Consistency{}
	flags := cmd.Flags()
	flags.StringVar(&e.format, "format", exportSQL, "sql, csv or jsonl")
	completeValues(cmd, "format", []string{exportSQL, exportCSV, exportJSONL})
	flags.StringVarP(&e.output, "output", "o", stdinName, `file of the dump, folder of csv and jsonl; "-" is standard output`)
	flags.StringSliceVar(&e.request.Tables, "table", nil, "a table to export; repeat for more (default all)")
	flags.StringVar(&e.request.Consistency.Bookmark, "at-least", "", "export a state that is at least as fresh as this bookmark")
	flags.BoolVar(&primary, "primary", false, "export the primary's state (it always is)")
	cmd.MarkFlagsMutuallyExclusive("at-least", "primary")
	return cmd
}

// exportRun is one run of the command.
type exportRun struct {
	app     *App
	target  target
	request datav1.ExportRequest
	format  string
	output  string
}

// check refuses flags that do not go together.
func (e *exportRun) check() error {
	switch {
	case e.format != exportSQL && e.format != exportCSV && e.format != exportJSONL:
		return usagef("--format %q: want %s, %s or %s", e.format, exportSQL, exportCSV, exportJSONL)
	case e.output == "":
		return usagef("--output is empty")
	case e.output == stdinName && e.app.JSON:
		return usagef("--json wants an --output: the summary would stand among the data")
	case e.output == stdinName && e.format != exportSQL && len(e.request.Tables) != 1:
		return usagef("--format %s wants one --table, or a folder as --output", e.format)
	}
	if e.request.Consistency.GetBookmark() != "" {
		e.request.Consistency.Level = datav1.Consistency_LEVEL_AT_LEAST
	}
	return nil
}

func (e *exportRun) run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // or closing the stream would read what is left of it
	begun := time.Now()
	in, err := e.target.data.Export(ctx, connect.NewRequest(&e.request))
	if err != nil {
		return err
	}
	defer func() {
		cancel()
		_ = in.Close() // Run has said what it has to say
	}()
	var summary exporter.Summary
	switch {
	case e.output == stdinName:
		summary, err = exporter.Run(in, e.to(e.app.Stdout, func(string) (io.WriteCloser, error) {
			return unclosed{e.app.Stdout}, nil
		}))
	case e.format == exportSQL:
		summary, err = e.file(in)
	default:
		summary, err = e.folder(in)
	}
	if err != nil {
		return err
	}
	return e.show(summary, time.Since(begun))
}

type unclosed struct{ io.Writer }

// Close implements io.Closer.
func (unclosed) Close() error { return nil }

// to returns the format's writer: a dump goes to dump, tables where open says.
func (e *exportRun) to(dump io.Writer, open exporter.OpenFunc) exporter.Format {
	switch e.format {
	case exportCSV:
		return exporter.CSV(open)
	case exportJSONL:
		return exporter.JSONLines(open)
	default:
		return exporter.SQL(dump, e.request.GetDatabase())
	}
}

// file writes a dump under another name, and gives it its own, in place of an older one's, when it is whole and on the disk.
func (e *exportRun) file(in exporter.Stream) (s exporter.Summary, err error) {
	f, err := os.CreateTemp(filepath.Dir(e.output), "."+filepath.Base(e.output)+".partial-*")
	if err != nil {
		return s, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(f.Name()))
		}
	}()
	s, err = exporter.Run(in, e.to(f, nil))
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return s, err
	}
	if err := os.Rename(f.Name(), e.output); err != nil {
		return s, err
	}
	return s, syncFolder(filepath.Dir(e.output))
}

// folder writes tables into a new folder under another name, and gives it its own when all is there and on the disk.
func (e *exportRun) folder(in exporter.Stream) (s exporter.Summary, err error) {
	final := filepath.Clean(e.output)
	if _, err := os.Lstat(final); err == nil {
		return s, fmt.Errorf("%s is there already: an export makes its own folder", final)
	}
	dir, err := os.MkdirTemp(filepath.Dir(final), "."+filepath.Base(final)+".partial-*")
	if err != nil {
		return s, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.RemoveAll(dir))
		}
	}()
	s, err = exporter.Run(in, e.to(nil, func(table string) (io.WriteCloser, error) {
		f, err := os.Create(filepath.Join(dir, url.PathEscape(table)+"."+e.format))
		return synced{f}, err
	}))
	if err != nil {
		return s, err
	}
	if err := syncFolder(dir); err != nil {
		return s, err
	}
	if err := os.Rename(dir, final); err != nil {
		return s, err
	}
	return s, syncFolder(filepath.Dir(final))
}

// synced is a file that is on the disk when it is closed.
type synced struct{ *os.File }

// Close implements io.Closer.
func (f synced) Close() error { return errors.Join(f.Sync(), f.File.Close()) }

// syncFolder writes a folder's names to the disk.
func syncFolder(name string) error {
	dir, err := os.Open(name)
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

func (e *exportRun) show(s exporter.Summary, took time.Duration) error {
	if e.app.JSON {
		return e.app.WriteJSON(struct {
			Database string  `json:"database"`
			Format   string  `json:"format"`
			Output   string  `json:"output"`
			Tables   int     `json:"tables"`
			Rows     int64   `json:"rows"`
			Seconds  float64 `json:"seconds"`
			Bookmark string  `json:"bookmark"`
		}{e.request.GetDatabase(), e.format, e.output, s.Tables, s.Rows, took.Seconds(), s.Answer.GetBookmark()})
	}
	out := e.app.Stdout
	if e.output == stdinName {
		out = e.app.Stderr
	}
	e.app.printf(out, "exported %s of %s from %s, %.1f s, at bookmark %s\n", render.Count(s.Rows, "row"),
		render.Count(int64(s.Tables), "table"), e.request.GetDatabase(), took.Seconds(), s.Answer.GetBookmark())
	return nil
}
