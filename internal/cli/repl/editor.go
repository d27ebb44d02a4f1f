package repl

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/signal"
	"path/filepath"

	"github.com/peterh/liner"
)

const (
	// maxEntry bounds a line of the history, in bytes; longer ones are not kept.
	maxEntry = 4000
	// maxHistory bounds the history's file, in bytes: of a larger one the end is read.
	maxHistory = 1 << 20
)

// Terminal is the Editor of the process's own terminal: lines can be edited, Tab completes, the history is kept in a file.
type Terminal struct {
	state   *liner.State
	history string
	// interrupts takes Ctrl-C where no statement does: between the prompt and a statement's begin it must not end the program.
	interrupts chan os.Signal
}

// OpenTerminal takes over the terminal until Close. The history is read from a file, which need not be there; an empty name
// keeps none. complete is what Complete does.
func OpenTerminal(history string, complete func(line string, pos int) (head string, words []string, tail string)) (*Terminal, error) {
	t := &Terminal{state: liner.NewLiner(), history: history, interrupts: make(chan os.Signal, 1)}
	signal.Notify(t.interrupts, os.Interrupt)
	t.state.SetCtrlCAborts(true)
	t.state.SetTabCompletionStyle(liner.TabPrints)
	t.state.SetWordCompleter(complete)
	t.state.SetBeep(false)
	text, err := os.ReadFile(history)
	if history == "" || errors.Is(err, fs.ErrNotExist) {
		return t, nil
	}
	if err != nil {
		signal.Stop(t.interrupts)
		return nil, errors.Join(fmt.Errorf("read history: %w", err), t.state.Close())
	}
	for line := range bytes.Lines(text[max(0, len(text)-maxHistory):]) {
		t.Remember(string(bytes.TrimSpace(line)))
	}
	return t, nil
}

// Prompt implements Editor.
func (t *Terminal) Prompt(prompt string) (string, error) {
	line, err := t.state.Prompt(prompt)
	if errors.Is(err, liner.ErrPromptAborted) {
		return "", ErrInterrupted
	}
	return line, err
}

// Remember implements Editor. The last thousand lines are kept.
func (t *Terminal) Remember(line string) {
	if line != "" && len(line) <= maxEntry {
		t.state.AppendHistory(line)
	}
}

// Close gives the terminal back and writes the history, for its owner's eyes only.
func (t *Terminal) Close() error {
	signal.Stop(t.interrupts)
	err := t.state.Close()
	if t.history == "" {
		return err
	}
	if writeErr := t.writeHistory(); writeErr != nil {
		err = errors.Join(err, fmt.Errorf("write history: %w", writeErr))
	}
	return err
}

// writeHistory writes the file in one piece: two sessions that end at once leave the history of one of them.
func (t *Terminal) writeHistory() (err error) {
	dir := filepath.Dir(t.history)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	f, err := os.CreateTemp(dir, ".history-*") // 0600
	if err != nil {
		return err
	}
	_, err = t.state.WriteHistory(f)
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), t.history)
	}
	if err != nil {
		err = errors.Join(err, os.Remove(f.Name()))
	}
	return err
}

// Plain is an Editor of lines as they come, for where no terminal can be taken over.
type Plain struct {
	in  *bufio.Reader
	out io.Writer
}

// NewPlain returns a Plain that shows its prompts on out.
func NewPlain(in io.Reader, out io.Writer) *Plain { return &Plain{in: bufio.NewReader(in), out: out} }

// Prompt implements Editor.
func (p *Plain) Prompt(prompt string) (string, error) {
	if _, err := io.WriteString(p.out, prompt); err != nil {
		return "", err
	}
	line, err := p.in.ReadString('\n')
	if err != nil && line == "" {
		return "", err
	}
	return string(bytes.TrimRight([]byte(line), "\r\n")), nil
}

// Remember implements Editor. It does nothing.
func (*Plain) Remember(string) {}
