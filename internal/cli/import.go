package cli

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/nearside-dev/nearside/internal/cli/importer"
	"github.com/nearside-dev/nearside/internal/cli/render"
)

// stdinName stands for standard input in place of a file.
const stdinName = "-"

func (app *App) importCommand() *cobra.Command {
	c := &importRun{app: app}
	var db *string
	cmd := &cobra.Command{
		Use:   "import FILE",
		Short: "Run an SQL dump of any size",
		Long: `Run the statements of an SQL dump, or of standard input if FILE is "-". The
database is created if there is none.

Statements go in batches, each a transaction. What is done stays done: an import
that was cut off, or that stopped at a bad statement which has been repaired
since, goes on where it was when the same command is run again, for as long as
the primary remembers the batches (use the same batch limits). With --atomic all
goes in one transaction of at most 64 MiB.

The dump's own BEGIN and COMMIT, and PRAGMA, ANALYZE and VACUUM, are left out.
One that begins with PRAGMA foreign_keys=OFF, as those of sqlite3's .dump do, may
have rows before those they refer to: its tables are made first, then filled in
the order of their references, and keys are checked at the end of each batch.`,
		Example: "  nearside import --db chinook chinook.sql",
		Args:    cobra.ExactArgs(1),
		RunE: app.Run(func(cmd *cobra.Command, args []string) error {
			if c.options.BatchStatements < 1 || c.options.BatchStatements > importer.MaxOperations {
				return usagef("--batch-statements %d: want 1 to %d", c.options.BatchStatements, importer.MaxOperations)
			}
			if c.options.BatchBytes < 1 || c.options.BatchBytes > importer.MaxTransactionBytes {
				return usagef("--batch-bytes %d: want 1 to %d", c.options.BatchBytes, importer.MaxTransactionBytes)
			}
			if err := c.target.connect(cmd); err != nil {
				return err
			}
			c.options.Database = *db
			return c.file(cmd.Context(), args[0])
		}),
	}
	c.target.register(cmd)
	db = c.target.database(cmd)
	flags := cmd.Flags()
	flags.BoolVar(&c.create, "create", true, "create the database if there is none")
	flags.BoolVar(&c.options.Atomic, "atomic", false, "all in one transaction, at most 64 MiB")
	flags.BoolVar(&c.again, "again", false, "do all batches, even if an earlier import of the file did them")
	flags.IntVar(&c.options.BatchStatements, "batch-statements", 500, "statements in a batch")
	flags.IntVar(&c.options.BatchBytes, "batch-bytes", 1<<20, "bytes in a batch")
	flags.DurationVar(&c.options.RetryFor, "retry-for", 30*time.Second,
		"how long to try a batch again while the primary cannot be reached")
	flags.BoolVar(&c.progress, "progress", app.StderrTerminal, "show progress on standard error (default: if it is a terminal)")
	return cmd
}

// importRun is one run of the command.
type importRun struct {
	app     *App
	target  target
	options importer.Options
	create  bool
	again   bool

	progress bool
	size     int64 // of the input; 0 if not known
	begun    time.Time
	shown    time.Time
	notes    int
}

// file imports a file or standard input.
func (c *importRun) file(ctx context.Context, name string) error {
	in := c.app.Stdin
	c.options.Name = "stdin"
	if name != stdinName {
		f, err := os.Open(name)
		if err != nil {
			return err
		}
		defer f.Close() //nolint:errcheck // only read from
		if info, err := f.Stat(); err == nil && info.Mode().IsRegular() {
			c.size = info.Size()
		}
		in, c.options.Name = f, name
	}
	if c.create {
		if err := c.target.createDatabase(ctx, c.options.Database); err != nil {
			return err
		}
	}
	return c.run(ctx, in)
}

func (c *importRun) run(ctx context.Context, in io.Reader) error {
	if c.again {
		c.options.Again = rand.Text()
	}
	c.options.OnNote = c.note
	if c.progress {
		c.options.OnBatch = c.showProgress
	}
	c.begun = time.Now()
	summary, err := importer.Run(ctx, c.target.data, in, c.options)
	took := time.Since(c.begun)
	c.clearProgress()
	if err != nil {
		return c.stopped(summary, err)
	}
	return c.show(summary, took)
}

// stopped adds to err what is done and how to go on.
func (c *importRun) stopped(s importer.Summary, err error) error {
	switch {
	case c.options.Atomic:
		return fmt.Errorf("%w; nothing was imported", err)
	case s.Statements == 0 || errors.Is(err, importer.ErrForgotten):
		return err
	default:
		return fmt.Errorf("%w; %s before it done, and the same command goes on from there", err,
			render.Count(s.Statements, "statement"))
	}
}

func (c *importRun) show(s importer.Summary, took time.Duration) error {
	if c.app.JSON {
		return c.app.WriteJSON(struct {
			Database          string  `json:"database"`
			Statements        int64   `json:"statements"`
			SkippedStatements int64   `json:"skippedStatements"`
			Rows              int64   `json:"rows"`
			Batches           int     `json:"batches"`
			SkippedBatches    int     `json:"skippedBatches"`
			Seconds           float64 `json:"seconds"`
			Bookmark          string  `json:"bookmark"`
		}{
			c.options.Database, s.Statements, s.SkippedStatements, s.Rows, s.Batches, s.SkippedBatches, took.Seconds(),
			s.Bookmark,
		})
	}
	line := fmt.Sprintf("imported %s into %s: %s in %s, %.1f s", render.Count(s.Rows, "row"), c.options.Database,
		render.Count(s.Statements, "statement"), render.Count(int64(s.Batches), "batch"), took.Seconds())
	if s.SkippedBatches > 0 {
		line += fmt.Sprintf("; %s of an earlier import of this file skipped (--again repeats them)",
			render.Count(int64(s.SkippedBatches), "batch"))
	}
	_, err := fmt.Fprintln(c.app.Stdout, line)
	return err
}

// maxNotes is how many statements that are left out are shown.
const maxNotes = 10

func (c *importRun) note(text string) {
	switch c.notes++; {
	case c.notes <= maxNotes:
		c.clearProgress()
		c.app.printf(c.app.Stderr, "%s\n", text)
	case c.notes == maxNotes+1:
		c.app.printf(c.app.Stderr, "more is left out\n")
	}
}

// showProgress writes how far the import is, a few times a second.
func (c *importRun) showProgress(s importer.Summary) {
	interval, end := 200*time.Millisecond, "" // a terminal's line is written over
	if !c.app.StderrTerminal {
		interval, end = time.Second, "\n"
	}
	now := time.Now()
	if now.Sub(c.shown) < interval {
		return
	}
	c.shown = now
	line := fmt.Sprintf("%s, %s, %.1f MiB, %.0f s", render.Count(s.Statements, "statement"), render.Count(s.Rows, "row"),
		float64(s.Bytes)/(1<<20), now.Sub(c.begun).Seconds())
	if c.size > 0 {
		line += fmt.Sprintf(", %d %%", 100*s.Bytes/c.size)
	}
	c.clearProgress()
	c.app.printf(c.app.Stderr, "%s%s", line, end)
}

// clearProgress empties the terminal's line for what is to stand there.
func (c *importRun) clearProgress() {
	if c.progress && c.app.StderrTerminal {
		c.app.printf(c.app.Stderr, "\r%s\r", strings.Repeat(" ", 79))
	}
}
