package cli

import (
	"bufio"
	"io"
	"strings"
)

// prompt asks for lines at a terminal.
type prompt struct {
	in   *bufio.Reader
	out  io.Writer
	name string
	rest []byte
	open bool // the last line did not end its statement
}

func newPrompt(in io.Reader, out io.Writer, name string) *prompt {
	return &prompt{in: bufio.NewReader(in), out: out, name: name}
}

// Read implements io.Reader, a line at a time.
func (p *prompt) Read(b []byte) (int, error) {
	if len(p.rest) == 0 {
		mark := p.name + "> "
		if p.open {
			mark = strings.Repeat(" ", max(0, len(p.name)-3)) + "...> "
		}
		if _, err := io.WriteString(p.out, mark); err != nil {
			return 0, err
		}
		line, err := p.in.ReadBytes('\n')
		if len(line) == 0 {
			io.WriteString(p.out, "\n") //nolint:errcheck // the session ends here anyway
			return 0, err
		}
		word := strings.TrimSpace(string(line))
		if !p.open && (word == "exit" || word == "quit" || word == ".quit" || word == ".exit") {
			return 0, io.EOF
		}
		p.open = word != "" && !strings.HasSuffix(word, ";") && !strings.HasPrefix(word, "--")
		p.rest = line
	}
	n := copy(b, p.rest)
	p.rest = p.rest[n:]
	return n, nil
}
