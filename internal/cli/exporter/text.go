package exporter

import (
	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/internal/cli/render"
)

// CSV returns the format of one CSV file for each table; render.AppendCSV has its rules.
func CSV(open OpenFunc) Format {
	return &tables{
		open: open,
		header: func(t *tables) {
			t.buf = render.AppendCSVNames(t.buf, t.columns)
		},
		row: func(t *tables, values []*datav1.Value) {
			t.buf = render.AppendCSV(t.buf, values)
		},
	}
}

// JSONLines returns the format of one file for each table with a JSON object for each row; its values are written as
// `nearside sql --json` does.
func JSONLines(open OpenFunc) Format {
	return &tables{
		open:   open,
		header: func(*tables) {},
		row: func(t *tables, values []*datav1.Value) {
			t.buf = render.AppendObject(t.buf, t.columns, values)
		},
	}
}
