package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"
	"unicode/utf8"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"

	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/internal/cli/render"
	"github.com/nearside-dev/nearside/internal/sqlsplit"
)

func (app *App) sqlCommand() *cobra.Command {
	var to target
	var db *string
	s := &sqlSession{app: app}
	cmd := &cobra.Command{
		Use:   "sql [STATEMENT]",
		Short: "Run SQL statements",
		Long: `Run the statement given, or those of standard input, separated by semicolons. Each
is answered as soon as it is done, and sees what the ones before it did.

With no statement and a terminal it is a prompt: with a history, completion of names
and keywords by Tab, statements over several lines, and commands that .help lists.
Ctrl-C stops a running statement, Ctrl-D leaves.

With --json each answer is one line. A failed statement is {"error":{…}} there,
the ones after it still run unless --stop-on-error is given, and the exit code
is 1 at the end.`,
		Example: `  nearside sql "SELECT * FROM greetings"
  nearside sql --db shop --url http://127.0.0.1:8081 --json < statements.sql`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 1 {
				return errors.New("sql takes one argument: put the statement into quotes")
			}
			return nil
		},
		RunE: app.Run(func(cmd *cobra.Command, args []string) error {
			if err := to.connect(cmd); err != nil {
				return err
			}
			s.target, s.database = &to, *db
			if err := s.setFormat(cmd); err != nil {
				return err
			}
			if len(args) == 0 {
				return s.stdin(cmd.Context())
			}
			return s.argument(cmd.Context(), args[0])
		}),
	}
	to.register(cmd)
	db = to.database(cmd)
	cmd.Flags().StringVar(&s.bookmark, "at-least", "", "read what is at least as fresh as this bookmark")
	cmd.Flags().BoolVar(&s.primary, "primary", false, "read from the primary")
	cmd.Flags().BoolVar(&s.stopOnError, "stop-on-error", false, "stop at the first statement that fails")
	cmd.Flags().StringVar(&s.format, "format", formatTable, "how answers are written: "+strings.Join(resultFormats, ", "))
	completeValues(cmd, "format", resultFormats)
	cmd.Flags().StringVar(&s.history, "history", defaultHistory, "file of the prompt's history; empty keeps none")
	cmd.MarkFlagsMutuallyExclusive("at-least", "primary")
	return cmd
}

// defaultHistory stands for the user's own file.
const defaultHistory = "~/.local/state/nearside/history"

// sqlSession runs statements one after the other.
type sqlSession struct {
	app         *App
	target      *target
	database    string
	primary     bool
	stopOnError bool
	format      string // one of resultFormats
	history     string
	quiet       bool // no line with time and source

	bookmark    string // reads are at least this fresh: --at-least, then that of the last answer
	interactive bool
	numbered    bool // failures name their line
	statements  int
	failed      int
}

// argument runs the statements of the command line. Of a single one the failure is the command's own.
func (s *sqlSession) argument(ctx context.Context, text string) error {
	count := 0
	for scanner := sqlsplit.NewScanner(strings.NewReader(text), sqlsplit.Options{}); scanner.Scan(); {
		count++
	}
	if count == 0 {
		return usagef("there is no statement in %q", text)
	}
	s.numbered = count > 1
	var last error
	if err := s.run(ctx, strings.NewReader(text), &last); err != nil {
		return err
	}
	if count == 1 {
		return last
	}
	return s.verdict()
}

// stdin runs the statements of standard input.
func (s *sqlSession) stdin(ctx context.Context) error {
	if s.app.StdinTerminal {
		return s.person(ctx)
	}
	s.numbered = true
	var last error
	if err := s.run(ctx, s.app.Stdin, &last); err != nil {
		return err
	}
	return s.verdict()
}

// verdict sums up a session of which each statement has been answered.
func (s *sqlSession) verdict() error {
	if s.failed == 0 {
		return nil
	}
	return shownError{fmt.Errorf("%d of %d statements failed", s.failed, s.statements)}
}

// run runs the statements of in. Those that fail are shown, counted, and the last one kept in last; the error is that of
// reading them or of writing answers.
func (s *sqlSession) run(ctx context.Context, in io.Reader, last *error) error {
	scanner := sqlsplit.NewScanner(in, sqlsplit.Options{})
	for scanner.Scan() {
		statement := scanner.Statement()
		s.statements++
		begun := time.Now()
		response, err := s.execute(ctx, statement.Text)
		if err == nil {
			if err := s.show(response, time.Since(begun)); err != nil {
				return err
			}
			continue
		}
		s.failed++
		if *last, err = s.showError(err, statement.Line); err != nil {
			return err
		}
		if s.stopOnError || ctx.Err() != nil {
			return nil //nolint:nilerr // it is shown and in last
		}
	}
	return scanner.Err()
}

func (s *sqlSession) execute(ctx context.Context, text string) (*datav1.ExecuteResponse, error) {
	if !utf8.ValidString(text) {
		return nil, connect.NewError(connect.CodeInvalidArgument,
			errors.New("the statement is not valid UTF-8: write other bytes as x'…' or CAST(x'…' AS TEXT)"))
	}
	request := &datav1.ExecuteRequest{
		Database:    s.database,
		Statement:   &datav1.Statement{Sql: text},
		Consistency: s.consistency(),
	}
	response, err := s.target.data.Execute(ctx, connect.NewRequest(request))
	if err != nil {
		return nil, err
	}
	if bookmark := response.Msg.GetAnswer().GetBookmark(); bookmark != "" {
		s.bookmark = bookmark
	}
	return response.Msg, nil
}

// consistency is how fresh the next read must be.
func (s *sqlSession) consistency() *datav1.Consistency {
	switch {
	case s.primary:
		return &datav1.Consistency{Level: datav1.Consistency_LEVEL_PRIMARY}
	case s.bookmark != "":
		return &datav1.Consistency{Level: datav1.Consistency_LEVEL_AT_LEAST, Bookmark: s.bookmark}
	default:
		return &datav1.Consistency{}
	}
}

// show writes an answer in one piece, so that it is there before the next statement is read.
func (s *sqlSession) show(response *datav1.ExecuteResponse, took time.Duration) error {
	if s.format == formatJSON {
		line := append(render.AppendResult(nil, response.GetResult(), response.GetAnswer()), '\n')
		_, err := s.app.Stdout.Write(line)
		return err
	}
	var b strings.Builder
	if err := resultWriters[s.format](&b, response.GetResult()); err != nil {
		return err
	}
	if !s.quiet && s.format != formatCSV {
		b.WriteString(render.Summary(response.GetResult(), response.GetAnswer(), took))
		b.WriteString("\n")
	}
	_, err := io.WriteString(s.app.Stdout, b.String())
	return err
}

// showError shows a failed statement where its answer would have been, and returns it as the error of the whole command,
// should it be the only one.
func (s *sqlSession) showError(failed error, line int) (last, err error) {
	f := failureOf(failed)
	if s.numbered {
		f.Line = line
	}
	switch {
	case s.format == formatJSON:
		return shownError{failed}, s.app.showFailure(f)
	case s.interactive:
		s.app.printf(s.app.Stderr, "%v\n", failed)
	case s.numbered:
		s.app.printf(s.app.Stderr, "nearside: line %d: %v\n", line, failed)
	}
	return failed, nil
}
