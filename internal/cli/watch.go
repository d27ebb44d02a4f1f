package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/nearside-dev/nearside/client"
	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/internal/cli/render"
)

func (app *App) watchCommand() *cobra.Command {
	var to target
	var db *string
	var keys, where []string
	var from, schema, query, format string
	var progress bool
	cmd := &cobra.Command{
		Use:   "watch TABLE | watch --query SELECT",
		Short: "Show what changes in a table, or what a query answers, as it changes",
		Long: `Show each change of a table's rows, one line each, as it reaches the region: "put" with
the row's new value, "delete" with the key of a deleted row, "left" with that of a
row that no longer fits --where. The watch goes on over restarts of the region,
until Ctrl-C.

With --json the last change of each commit has a bookmark. Given to --from, with
the schema that --progress shows, the watch goes on after that commit.

With --query show what a SELECT answers, and again whenever a commit makes it answer
something else, in the forms of nearside sql. Answers that follow each other closely
come as one.`,
		Example: `  nearside watch greetings
  nearside watch orders --db shop --where user_id=u_1 --json
  nearside watch orders --db shop --key 2026
  nearside watch --db shop --query "SELECT status, count(*) FROM orders GROUP BY status"`,
		Args: func(cmd *cobra.Command, args []string) error {
			switch asked := cmd.Flags().Changed("query"); {
			case asked && len(args) > 0:
				return errors.New("watch takes a table or --query, not both")
			case !asked && len(args) != 1:
				return errors.New("watch takes one argument: the table")
			}
			return nil
		},
		RunE: app.Run(func(cmd *cobra.Command, args []string) error {
			if err := app.chooseFormat(cmd, &format, resultFormats); err != nil {
				return err
			}
			if cmd.Flags().Changed("query") {
				if err := to.connect(cmd); err != nil {
					return err
				}
				ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM)
				defer stop()
				return app.watchQuery(ctx, &to, format, &datav1.WatchQueryRequest{
					Database: *db, Statement: &datav1.Statement{Sql: query}, Consistency: &datav1.Consistency{Bookmark: from},
				})
			}
			if format != formatTable && format != formatJSON {
				return usagef("--format %s is for --query", format)
			}
			request := &datav1.WatchRequest{Database: *db, Table: args[0], Bookmark: from, Schema: schema}
			for _, key := range keys {
				request.Prefix = append(request.Prefix, textValue(key))
			}
			var err error
			if request.Equal, err = conditions(where); err != nil {
				return err
			}
			if err := to.connect(cmd); err != nil {
				return err
			}
			ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM)
			defer stop()
			return app.watch(ctx, &to, request, progress)
		}),
	}
	to.register(cmd)
	db = to.database(cmd)
	flags := cmd.Flags()
	flags.StringArrayVar(&keys, "key", nil, "only rows whose key begins with this value; again for its next column")
	flags.StringArrayVar(&where, "where", nil, "only rows that fit COLUMN=TEXT, or COLUMN:=JSON for a number or null; again for more")
	flags.StringVar(&from, "from", "", "begin after this bookmark (default now)")
	flags.StringVar(&schema, "schema", "", "with --from: the schema of that watch")
	flags.StringVar(&query, "query", "", "watch what this SELECT answers instead")
	flags.StringVar(&format, "format", formatTable, "with --query: how answers are written: "+strings.Join(resultFormats, ", "))
	completeValues(cmd, "format", resultFormats)
	flags.BoolVar(&progress, "progress", false, "show where the watch is when nothing changes, too")
	for _, name := range []string{"key", "where", "schema", "progress"} {
		cmd.MarkFlagsMutuallyExclusive("query", name)
	}
	return cmd
}

// watchQuery shows what a query answers until ctx ends, which is no failure.
func (app *App) watchQuery(ctx context.Context, to *target, format string, request *datav1.WatchQueryRequest) error {
	for r, err := range client.WatchQuery(ctx, to.data, request) {
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		var b bytes.Buffer
		if format == formatJSON {
			b.Write(append(render.AppendResult(nil, r.Result, r.Answer), '\n'))
		} else if err := resultWriters[format](&b, r.Result); err != nil {
			return err
		}
		if format != formatJSON {
			b.WriteByte('\n') // what divides it from the next one
		}
		if _, err := app.Stdout.Write(b.Bytes()); err != nil {
			return fmt.Errorf("show answer: %w", err)
		}
	}
	return nil
}

// watch shows changes until ctx ends, which is no failure.
func (app *App) watch(ctx context.Context, to *target, request *datav1.WatchRequest, progress bool) error {
	var b []byte
	for event, err := range client.Watch(ctx, to.data, request) {
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		b = b[:0]
		for i, m := range event.Changes {
			c := render.Change{WatchResponse_Change: m, Columns: event.Columns, KeyColumns: event.KeyColumns}
			if i == len(event.Changes)-1 {
				c.Bookmark = event.Bookmark
			}
			if app.JSON {
				b = append(render.AppendChange(b, c), '\n')
			} else {
				b = append(render.AppendChangeText(b, c), '\n')
			}
		}
		if len(event.Changes) == 0 && progress {
			b = app.appendProgress(b, event)
		}
		if _, err := app.Stdout.Write(b); err != nil {
			return fmt.Errorf("show changes: %w", err)
		}
	}
	return nil
}

func (app *App) appendProgress(b []byte, event client.Event) []byte {
	if app.JSON {
		return append(render.AppendProgress(b, event.Bookmark, event.Schema), '\n')
	}
	return fmt.Appendf(b, "progress bookmark=%s schema=%s\n", event.Bookmark, event.Schema)
}

// conditions reads what --where says.
func conditions(where []string) (map[string]*datav1.Value, error) {
	equal := make(map[string]*datav1.Value, len(where))
	for _, text := range where {
		name, v, ok := strings.Cut(text, "=")
		exact := strings.HasSuffix(name, ":")
		name = strings.TrimSuffix(name, ":")
		if !ok || name == "" {
			return nil, usagef("--where %q: want COLUMN=TEXT or COLUMN:=JSON", text)
		}
		if _, twice := equal[name]; twice {
			return nil, usagef("--where %q: column %s is there twice", text, name)
		}
		equal[name] = textValue(v)
		if exact {
			var err error
			if equal[name], err = jsonValue(v); err != nil {
				return nil, usagef("--where %q: %w", text, err)
			}
		}
	}
	return equal, nil
}

func textValue(text string) *datav1.Value {
	return &datav1.Value{Kind: &datav1.Value_Text{Text: text}}
}

// jsonValue reads a number, a string or null.
func jsonValue(text string) (*datav1.Value, error) {
	decoder := json.NewDecoder(strings.NewReader(text))
	decoder.UseNumber()
	var v any
	if err := decoder.Decode(&v); err != nil || decoder.More() {
		return nil, errors.New("want a number, a string in double quotes or null")
	}
	switch v := v.(type) {
	case nil:
		return &datav1.Value{}, nil
	case string:
		return textValue(v), nil
	case json.Number:
		if n, err := v.Int64(); err == nil {
			return &datav1.Value{Kind: &datav1.Value_Integer{Integer: n}}, nil
		}
		f, err := v.Float64()
		return &datav1.Value{Kind: &datav1.Value_Real{Real: f}}, err
	default:
		return nil, errors.New("want a number, a string in double quotes or null")
	}
}
