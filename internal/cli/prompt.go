package cli

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"connectrpc.com/connect"

	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/internal/cli/repl"
	"github.com/nearside-dev/nearside/internal/sqlsplit"
)

// dotCommands are what the prompt knows beside SQL, and what they do.
var dotCommands = [][2]string{
	{"databases", "list the databases"},
	{"db NAME", "go on with another database"},
	{"exit", "leave, as .quit and Ctrl-D do"},
	{"help", "show this"},
	{"mode table|json|csv|line", "how answers are written"},
	{"quit", "leave"},
	{"schema [NAME]", "show the statements that make the tables, or those of one"},
	{"tables [PATTERN]", "list tables and views, those LIKE a pattern"},
	{"timer on|off", "show or hide time and source below answers"},
}

// dotNames are the commands' first words.
func dotNames() []string {
	names := make([]string, len(dotCommands))
	for i, c := range dotCommands {
		names[i], _, _ = strings.Cut(c[0], " ")
	}
	return names
}

// prompt is a session of a person.
type prompt struct {
	*sqlSession

	names   repl.Names // of the database, for Tab
	namesAt time.Time  // when they were asked for; zero is never
}

const (
	namesFor     = 30 * time.Second // how long names are good for
	namesTimeout = time.Second      // Tab waits no longer for them
)

// person runs statements that are typed.
func (s *sqlSession) person(ctx context.Context) (err error) {
	p := &prompt{sqlSession: s}
	s.interactive = true
	loop := &repl.Loop{
		Name: func() string { return s.database }, Statement: p.statement, Command: p.command, Out: s.app.Stdout,
	}
	if s.app.takeTerminal {
		terminal, err := repl.OpenTerminal(s.historyFile(), func(line string, pos int) (string, []string, string) {
			return repl.Complete(line, pos, p.known(ctx), dotNames())
		})
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, terminal.Close()) }()
		s.app.printf(s.app.Stdout, "Statements end with a semicolon; .help shows the rest.\n")
		loop.Editor = terminal
	} else {
		loop.Editor = repl.NewPlain(s.app.Stdin, s.app.Stderr)
	}
	return loop.Run(ctx)
}

// historyFile is the file of --history, or the user's own; empty where there is none.
func (s *sqlSession) historyFile() string {
	if s.history != defaultHistory {
		return s.history
	}
	if state := s.app.env("XDG_STATE_HOME"); filepath.IsAbs(state) {
		return filepath.Join(state, "nearside", "history")
	}
	if home := s.app.env("HOME"); home != "" {
		return filepath.Join(home, ".local", "state", "nearside", "history")
	}
	return ""
}

// statement implements repl.Loop.Statement.
func (p *prompt) statement(ctx context.Context, text string) error {
	switch sqlsplit.Kind(text) {
	case "CREATE", "DROP", "ALTER":
		p.namesAt = time.Time{}
	}
	begun := time.Now()
	response, err := p.execute(ctx, text)
	if err != nil {
		if ctx.Err() != nil {
			err = fmt.Errorf("stopped by Ctrl-C: %w", err)
		}
		_, err = p.showError(err, 0)
		return err
	}
	return p.show(response, time.Since(begun))
}

// command implements repl.Loop.Command.
func (p *prompt) command(ctx context.Context, name string, args []string) error {
	argument := ""
	if len(args) > 0 {
		argument = args[0]
	}
	switch {
	case len(args) > 1:
		p.say("." + name + " takes one argument at most")
	case name == "help":
		for _, c := range dotCommands {
			p.say(fmt.Sprintf("  .%-26s %s", c[0], c[1]))
		}
	case name == "mode" && slices.Contains(resultFormats, argument):
		p.format = argument
	case name == "mode":
		p.say("the mode is " + p.format + "; there are " + strings.Join(resultFormats, ", "))
	case name == "timer" && (argument == "on" || argument == "off"):
		p.quiet = argument == "off"
	case name == "timer":
		p.say("want .timer on or .timer off")
	case name == "db" && argument != "":
		p.database, p.bookmark, p.namesAt = argument, "", time.Time{}
	case name == "db":
		p.say("the database is " + p.database)
	case name == "databases":
		return p.databases(ctx)
	case name == "tables":
		return p.list(ctx, "SELECT name FROM sqlite_schema WHERE type IN ('table', 'view') AND "+notInternal+
			" AND (?1 = '' OR name LIKE ?1) ORDER BY name", argument)
	case name == "schema":
		return p.list(ctx, "SELECT sql || ';' FROM sqlite_schema WHERE sql IS NOT NULL AND "+notInternal+
			" AND (?1 = '' OR tbl_name LIKE ?1) ORDER BY rowid", argument)
	default:
		p.say("there is no ." + name + "; .help shows what there is")
	}
	return nil
}

// notInternal leaves out the tables that are not the user's.
const notInternal = `name NOT LIKE 'sqlite\_%' ESCAPE '\' AND name NOT LIKE '\_nearside\_%' ESCAPE '\'`

func (p *prompt) say(line string) { p.app.printf(p.app.Stdout, "%s\n", line) }

// list shows the one column of a query, a line each.
func (p *prompt) list(ctx context.Context, query, argument string) error {
	response, err := p.target.data.Query(ctx, connect.NewRequest(&datav1.QueryRequest{
		Database: p.database, Consistency: p.consistency(),
		Statement: &datav1.Statement{Sql: query, Parameters: []*datav1.Value{
			{Kind: &datav1.Value_Text{Text: argument}},
		}},
	}))
	if err != nil {
		_, err = p.showError(err, 0)
		return err
	}
	for _, row := range response.Msg.GetResult().GetRows() {
		p.say(row.GetValues()[0].GetText())
	}
	return nil
}

func (p *prompt) databases(ctx context.Context) error {
	list, err := p.app.listDatabases(ctx, p.target)
	if err != nil {
		_, err = p.showError(err, 0)
		return err
	}
	for _, d := range list {
		p.say(d.GetName())
	}
	return nil
}

// known returns the database's names, as they are or were a short time ago. Where nobody can be asked, those from before.
func (p *prompt) known(ctx context.Context) repl.Names {
	if time.Since(p.namesAt) < namesFor {
		return p.names
	}
	ctx, cancel := context.WithTimeout(ctx, namesTimeout)
	defer cancel()
	p.namesAt = time.Now()
	response, err := p.target.data.GetDatabase(ctx, connect.NewRequest(&datav1.GetDatabaseRequest{
		Name: p.database, Consistency: p.consistency(),
	}))
	if err != nil {
		return p.names
	}
	p.names = repl.Names{Columns: make(map[string][]string)}
	for _, t := range response.Msg.GetDatabase().GetTables() {
		p.names.Tables = append(p.names.Tables, t.GetName())
		for _, c := range t.GetColumns() {
			p.names.Columns[t.GetName()] = append(p.names.Columns[t.GetName()], c.GetName())
		}
	}
	return p.names
}
