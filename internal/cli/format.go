package cli

import (
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/internal/cli/render"
)

// The forms of answers. formatJSON is what --json asks for.
const (
	formatTable = "table"
	formatJSON  = "json"
	formatCSV   = "csv"
	formatLine  = "line"
)

// resultFormats are those of statements' answers, listFormats those of lists.
var (
	resultFormats = []string{formatTable, formatJSON, formatCSV, formatLine}
	listFormats   = []string{formatTable, formatJSON, formatCSV}
)

var resultWriters = map[string]func(io.Writer, *datav1.ResultSet) error{
	formatTable: render.ResultTable, formatCSV: render.ResultCSV, formatLine: render.ResultLines,
}

// setFormat brings --format and --json together.
func (s *sqlSession) setFormat(cmd *cobra.Command) error {
	return s.app.chooseFormat(cmd, &s.format, resultFormats)
}

// listFormat registers the --format of a command that answers with a list.
func listFormat(cmd *cobra.Command) *string {
	format := cmd.Flags().String("format", formatTable, "how the list is written: "+strings.Join(listFormats, ", "))
	completeValues(cmd, "format", listFormats)
	return format
}

// chooseFormat refuses a --format that is not one of the known, or not that of --json where both are given, and makes either
// of them stand for both: app.JSON also says how failures are shown.
func (app *App) chooseFormat(cmd *cobra.Command, format *string, known []string) error {
	given := cmd.Flags().Changed("format")
	switch {
	case !slices.Contains(known, *format):
		return usagef("--format %q: want %s", *format, strings.Join(known, ", "))
	case app.JSON && given && *format != formatJSON:
		return usagef("--json and --format %s do not go together", *format)
	case app.JSON:
		*format = formatJSON
	case *format == formatJSON:
		app.JSON = true
	}
	return nil
}

// writeList writes a list as a table or as CSV.
func (app *App) writeList(format string, headings []string, rows [][]string, numeric []bool) error {
	if format == formatCSV {
		return render.CSV(app.Stdout, headings, rows)
	}
	return render.Table(app.Stdout, headings, rows, numeric)
}
