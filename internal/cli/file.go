package cli

import (
	"fmt"
	"io"
	"os"
)

// readFile reads a file of at most so many bytes; - is standard input.
func (app *App) readFile(file string, limit int) ([]byte, error) {
	in := app.Stdin
	if file != "-" {
		f, err := os.Open(file)
		if err != nil {
			return nil, err
		}
		defer f.Close() //nolint:errcheck // it was only read
		in = f
	}
	text, err := io.ReadAll(io.LimitReader(in, int64(limit)+1))
	if err != nil {
		return nil, err
	}
	if len(text) > limit {
		return nil, fmt.Errorf("%s: is larger than %d bytes", file, limit)
	}
	return text, nil
}
