package cli

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"time"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"

	controlv1 "github.com/nearside-dev/nearside/gen/nearside/control/v1"
	"github.com/nearside-dev/nearside/internal/cli/render"
)

// regionJSON is a region as programs read it.
type regionJSON struct {
	Name      string        `json:"name"`
	URL       string        `json:"url"`
	Ready     bool          `json:"ready"`
	Reason    string        `json:"reason,omitempty"`
	Primary   bool          `json:"primary"`
	Connected bool          `json:"connected"`
	Breaker   string        `json:"breaker,omitempty"`
	Databases []replicaJSON `json:"databases"`

	Fallbacks *[]fallbackJSON `json:"fallbacks,omitempty"` // with --fallbacks
}

// fallbackJSON is a reason for which a region left statements to the primary.
type fallbackJSON struct {
	Database  string    `json:"database"`
	Reason    string    `json:"reason"`
	Count     uint64    `json:"count"`
	Last      time.Time `json:"last"`
	Statement string    `json:"statement"`
}

// replicaJSON is a region's copy of a database.
type replicaJSON struct {
	Name        string  `json:"name"`
	Version     uint64  `json:"version"`
	Lag         uint64  `json:"lag"`
	StalenessMs *uint32 `json:"stalenessMs"` // null where it is not known: the copy never was complete
	Problem     string  `json:"problem,omitempty"`

	Snapshot       *snapshotJSON `json:"snapshot,omitempty"`
	DivergedTables []string      `json:"divergedTables,omitempty"`
	WithheldTables []string      `json:"withheldTables,omitempty"`
}

// snapshotJSON is how far a snapshot is.
type snapshotJSON struct {
	Rows      uint64 `json:"rows"`
	TotalRows uint64 `json:"totalRows"`
	Bytes     uint64 `json:"bytes"`
	Table     string `json:"table,omitempty"`
	Finishing bool   `json:"finishing"`
}

func snapshotOf(d *controlv1.GetStatusResponse_Database) *snapshotJSON {
	s := d.GetSnapshot()
	if s == nil {
		return nil
	}
	return &snapshotJSON{
		Rows: s.GetRows(), TotalRows: s.GetTotalRows(), Bytes: s.GetBytes(), Table: s.GetTable(), Finishing: s.GetFinishing(),
	}
}

// snapshotText is how far a snapshot is, for people.
func snapshotText(d *controlv1.GetStatusResponse_Database) string {
	s := d.GetSnapshot()
	switch {
	case s == nil:
		return ""
	case s.GetFinishing():
		return "finishing"
	default:
		text := fmt.Sprintf("%d %%: %d of %d rows, %.1f MiB", min(100, s.GetRows()*100/max(1, s.GetTotalRows())),
			s.GetRows(), s.GetTotalRows(), float64(s.GetBytes())/(1<<20))
		if s.GetTable() != "" {
			text += ", in " + s.GetTable()
		}
		return text
	}
}

// problemText is what is wrong with a copy, or with tables of it.
func problemText(d *controlv1.GetStatusResponse_Database) string {
	if tables := d.GetDivergedTables(); d.GetProblem() == "" && len(tables) > 0 {
		return "tables copied anew: " + strings.Join(tables, ", ")
	}
	return d.GetProblem()
}

func (app *App) statusCommand() *cobra.Command {
	var to target
	var watch time.Duration
	var fallbacks bool
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show the regions, their databases and how far behind they are",
		Long: `Show the regions, their databases and how far behind they are. With --watch it shows
them again and again, until Ctrl-C; with --json each time is a line.

With --fallbacks it shows the statements that each region left to the primary since it
started: for each database and reason how many, when the last one was, and the text of
one, with ? for every literal.`,
		Args: cobra.NoArgs,
		RunE: app.Run(func(cmd *cobra.Command, _ []string) error {
			if watch != 0 && watch < minWatch {
				return usagef("--watch=%v: want at least %v", watch, minWatch)
			}
			if err := to.connect(cmd); err != nil {
				return err
			}
			if watch > 0 {
				return app.watchStatus(cmd.Context(), &to, watch, fallbacks)
			}
			return app.status(cmd.Context(), &to, app.Stdout, fallbacks)
		}),
	}
	to.register(cmd)
	cmd.Flags().DurationVar(&watch, "watch", 0, "show it again and again, in this interval")
	cmd.Flags().BoolVar(&fallbacks, "fallbacks", false, "show the statements that regions left to the primary")
	cmd.Flags().Lookup("watch").NoOptDefVal = "2s"
	return cmd
}

// minWatch is the shortest interval of --watch.
const minWatch = 100 * time.Millisecond

// status asks once and writes the answer.
func (app *App) status(ctx context.Context, to *target, w io.Writer, fallbacks bool) error {
	response, err := to.status.GetStatus(ctx, connect.NewRequest(&controlv1.GetStatusRequest{Fallbacks: fallbacks}))
	if err != nil {
		return err
	}
	if app.JSON {
		return app.WriteJSON(map[string][]regionJSON{"regions": regionsJSON(response.Msg.GetRegions(), fallbacks)})
	}
	if fallbacks {
		return showFallbacks(w, response.Msg.GetRegions())
	}
	return app.showStatus(w, response.Msg.GetRegions())
}

// watchStatus asks until Ctrl-C. That nobody answers is shown, and asked again. A terminal's screen is written over in one
// piece, so that it does not flicker.
func (app *App) watchStatus(ctx context.Context, to *target, interval time.Duration, fallbacks bool) error {
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt)
	defer stop()
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	for {
		var screen bytes.Buffer
		if app.StdoutTerminal && !app.JSON {
			screen.WriteString("\x1b[H\x1b[2J")
		}
		if !app.JSON {
			fmt.Fprintf(&screen, "%s  %s\n\n", to.URL, time.Now().Format(time.TimeOnly))
		}
		err := app.status(ctx, to, &screen, fallbacks)
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil && app.JSON:
			err = app.showFailure(failureOf(err))
		case err != nil:
			fmt.Fprintf(&screen, "%v\n", err)
			err = nil
		}
		if err != nil {
			return err
		}
		if _, err := app.Stdout.Write(screen.Bytes()); err != nil {
			return err
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return nil
		}
	}
}

func regionsJSON(regions []*controlv1.GetStatusResponse_Region, fallbacks bool) []regionJSON {
	list := make([]regionJSON, len(regions))
	for i, r := range regions {
		list[i] = regionJSON{
			Name: r.GetName(), URL: r.GetUrl(), Ready: r.GetReady(), Reason: r.GetReason(), Primary: r.GetPrimary(),
			Connected: r.GetConnected(), Breaker: r.GetBreaker(),
			Databases: make([]replicaJSON, len(r.GetDatabases())),
		}
		if fallbacks {
			list[i].Fallbacks = fallbacksJSON(r.GetFallbacks())
		}
		for j, d := range r.GetDatabases() {
			list[i].Databases[j] = replicaJSON{
				Name: d.GetName(), Version: d.GetVersion(), Lag: d.GetLag(), StalenessMs: stalenessOf(d),
				Problem: d.GetProblem(), Snapshot: snapshotOf(d), DivergedTables: d.GetDivergedTables(),
				WithheldTables: d.GetWithheldTables(),
			}
		}
	}
	return list
}

func (app *App) showStatus(w io.Writer, regions []*controlv1.GetStatusResponse_Region) error {
	var regionRows, databaseRows [][]string
	for _, r := range regions {
		role := "replica"
		if r.GetPrimary() {
			role = "primary"
		}
		state := "ready"
		if !r.GetReady() {
			state = "not ready"
			if r.GetReason() != "" {
				state += ": " + r.GetReason()
			}
		}
		link := "down"
		if r.GetConnected() {
			link = "up"
		}
		regionRows = append(regionRows, []string{r.GetName(), role, r.GetUrl(), link, r.GetBreaker(), state})
		for _, d := range r.GetDatabases() {
			databaseRows = append(databaseRows, []string{
				r.GetName(), d.GetName(), strconv.FormatUint(d.GetVersion(), 10), strconv.FormatUint(d.GetLag(), 10),
				ageText(d.GetStalenessMs()), snapshotText(d), problemText(d), strings.Join(d.GetWithheldTables(), ", "),
			})
		}
	}
	err := render.Painted(w, []string{"region", "role", "gateway", "link", "breaker", "state"}, regionRows, nil,
		app.painter(regionRows, regionColor))
	if err != nil || len(databaseRows) == 0 {
		return err
	}
	if _, err := io.WriteString(w, "\n"); err != nil {
		return err
	}
	return render.Painted(w, []string{"region", "database", "version", "lag", "staleness", "snapshot", "problem", "withheld"}, databaseRows,
		[]bool{false, false, true, true, true}, app.painter(databaseRows, databaseColor))
}

// painter returns what paints a table, nil where there are to be no colours.
func (app *App) painter(rows [][]string, color func(column int, cell string) render.Color) func(row, column int) render.Color {
	if !app.colors() {
		return nil
	}
	return func(row, column int) render.Color {
		if row < 0 {
			return render.Bold
		}
		return color(column, rows[row][column])
	}
}

// regionColor is the colour of a cell of the regions' table.
func regionColor(column int, cell string) render.Color {
	switch {
	case column == 3 && cell == "down", column == 4 && cell == "open", column == 5 && cell != "ready":
		return render.Red
	case column == 4 && cell == "half-open":
		return render.Yellow
	case column == 5:
		return render.Green
	default:
		return render.Plain
	}
}

// databaseColor is the colour of a cell of the databases' table.
func databaseColor(column int, cell string) render.Color {
	switch {
	case column == 6:
		return render.Red
	case column == 3 && cell != "0", column == 4 && !strings.HasSuffix(cell, " ms"), column == 5:
		return render.Yellow
	default:
		return render.Plain
	}
}

// unknownAge is what a region says of a copy that never was complete.
const unknownAge = math.MaxUint32

func stalenessOf(d *controlv1.GetStatusResponse_Database) *uint32 {
	ms := d.GetStalenessMs()
	if ms == unknownAge {
		return nil
	}
	return &ms
}

// ageText writes milliseconds in a unit that is easy to read.
func ageText(ms uint32) string {
	if ms == unknownAge {
		return "unknown"
	}
	switch d := time.Duration(ms) * time.Millisecond; {
	case d < time.Second:
		return fmt.Sprintf("%d ms", ms)
	case d < time.Minute:
		return fmt.Sprintf("%.1f s", d.Seconds())
	default:
		return fmt.Sprintf("%d min %d s", d/time.Minute, d%time.Minute/time.Second)
	}
}
