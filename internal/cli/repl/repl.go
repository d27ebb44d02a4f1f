// Package repl is the SQL prompt of a terminal without the terminal: it puts lines together to statements, tells dot commands
// from SQL, completes words and keeps a history.
package repl

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"

	"github.com/nearside-dev/nearside/internal/sqlsplit"
)

// ErrInterrupted is what an Editor returns for Ctrl-C.
var ErrInterrupted = errors.New("interrupted")

// Editor reads lines from a person.
type Editor interface {
	// Prompt shows a prompt and returns the line, without its end. It returns io.EOF for Ctrl-D on an empty line, and
	// ErrInterrupted for Ctrl-C.
	Prompt(prompt string) (string, error)
	// Remember puts a line into the history.
	Remember(line string)
}

// Loop is a session at a prompt.
type Loop struct {
	Editor Editor
	// Name is the first part of the prompt.
	Name func() string
	// Statement runs one statement and shows its answer or its failure. Its context ends with Ctrl-C. An error ends the session.
	Statement func(ctx context.Context, text string) error
	// Command runs a dot command, given without its dot, as Statement does.
	Command func(ctx context.Context, name string, args []string) error
	// Out takes what the loop itself has to say.
	Out io.Writer
}

// maxPending bounds a statement that is being typed, or pasted.
const maxPending = 1 << 20

// Run reads and runs statements until Ctrl-D, or .quit, or ctx ends.
func (l *Loop) Run(ctx context.Context) error {
	pending := ""
	for ctx.Err() == nil {
		line, err := l.Editor.Prompt(l.prompt(pending))
		switch {
		case errors.Is(err, ErrInterrupted):
			pending = ""
			continue
		case errors.Is(err, io.EOF):
			_, err := fmt.Fprintln(l.Out)
			return err
		case err != nil:
			return err
		}
		word := strings.TrimSuffix(strings.TrimSpace(line), ";")
		if pending == "" {
			switch {
			case word == "":
				continue
			case strings.HasPrefix(word, "."), word == "exit", word == "quit":
				l.Editor.Remember(strings.TrimSpace(line))
				done, err := l.command(ctx, word)
				if done || err != nil {
					return err
				}
				continue
			}
		}
		if pending += line + "\n"; len(pending) > maxPending {
			pending = ""
			if _, err := fmt.Fprintf(l.Out, "the statement is longer than %d MiB\n", maxPending>>20); err != nil {
				return err
			}
		}
		if pending, err = l.statements(ctx, pending); err != nil {
			return err
		}
	}
	return ctx.Err()
}

func (l *Loop) prompt(pending string) string {
	name := l.Name()
	if pending == "" {
		return name + "> "
	}
	return strings.Repeat(" ", max(0, len(name)-3)) + "...> "
}

// statements runs the statements that text has whole and returns what is left of it.
func (l *Loop) statements(ctx context.Context, text string) (rest string, err error) {
	whole, rest := split(text)
	for _, statement := range whole {
		l.remember(statement)
		if err := interruptible(ctx, func(ctx context.Context) error { return l.Statement(ctx, statement) }); err != nil {
			return "", err
		}
	}
	return rest, nil
}

// split returns the statements that end with a ';' and the text after them. Text ends with a line feed.
func split(text string) (whole []string, rest string) {
	end := int64(0)
	for s := sqlsplit.NewScanner(strings.NewReader(text), sqlsplit.Options{}); s.Scan(); {
		statement := s.Statement()
		if statement.EndOffset == int64(len(text)) { // it has no ';', which would stand before the line feed
			return whole, text[end:]
		}
		whole, end = append(whole, statement.Text), statement.EndOffset
	}
	rest = text[end:]
	if begun := strings.TrimSpace(rest); strings.HasPrefix(begun, "/*") && !strings.Contains(begun, "*/") {
		return whole, rest // a comment over several lines
	}
	return whole, ""
}

// remember puts a statement into the history: on one line, unless a comment to the end of its line forbids that.
func (l *Loop) remember(statement string) {
	if !strings.Contains(statement, "--") && !strings.Contains(statement, "'") && !strings.Contains(statement, `"`) {
		l.Editor.Remember(strings.Join(strings.Fields(statement), " ") + ";")
		return
	}
	lines := strings.Split(statement, "\n")
	lines[len(lines)-1] += ";"
	for _, line := range lines {
		if line = strings.TrimSpace(line); line != "" {
			l.Editor.Remember(line)
		}
	}
}

func (l *Loop) command(ctx context.Context, line string) (done bool, err error) {
	words := strings.Fields(strings.TrimPrefix(line, "."))
	if len(words) == 0 {
		words = []string{"help"}
	}
	if words[0] == "quit" || words[0] == "exit" {
		return true, nil
	}
	return false, interruptible(ctx, func(ctx context.Context) error { return l.Command(ctx, words[0], words[1:]) })
}

// interruptible calls f with a context that Ctrl-C ends.
func interruptible(ctx context.Context, f func(context.Context) error) error {
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt)
	defer stop()
	return f(ctx)
}
