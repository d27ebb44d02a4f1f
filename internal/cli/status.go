package cli

import (
	"fmt"
	"strconv"
	"strings"

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
}

// replicaJSON is a region's copy of a database.
type replicaJSON struct {
	Name        string `json:"name"`
	Version     uint64 `json:"version"`
	Lag         uint64 `json:"lag"`
	StalenessMs uint32 `json:"stalenessMs"`
	Problem     string `json:"problem,omitempty"`

	Snapshot       *snapshotJSON `json:"snapshot,omitempty"`
	DivergedTables []string      `json:"divergedTables,omitempty"`
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
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show the regions, their databases and how far behind they are",
		Args:  cobra.NoArgs,
		RunE: app.Run(func(cmd *cobra.Command, _ []string) error {
			if err := to.connect(cmd); err != nil {
				return err
			}
			response, err := to.status.GetStatus(cmd.Context(), connect.NewRequest(&controlv1.GetStatusRequest{}))
			if err != nil {
				return err
			}
			if app.JSON {
				return app.WriteJSON(map[string][]regionJSON{"regions": regionsJSON(response.Msg.GetRegions())})
			}
			return app.showStatus(response.Msg.GetRegions())
		}),
	}
	to.register(cmd)
	return cmd
}

func regionsJSON(regions []*controlv1.GetStatusResponse_Region) []regionJSON {
	list := make([]regionJSON, len(regions))
	for i, r := range regions {
		list[i] = regionJSON{
			Name: r.GetName(), URL: r.GetUrl(), Ready: r.GetReady(), Reason: r.GetReason(), Primary: r.GetPrimary(),
			Connected: r.GetConnected(), Breaker: r.GetBreaker(),
			Databases: make([]replicaJSON, len(r.GetDatabases())),
		}
		for j, d := range r.GetDatabases() {
			list[i].Databases[j] = replicaJSON{
				Name: d.GetName(), Version: d.GetVersion(), Lag: d.GetLag(), StalenessMs: d.GetStalenessMs(),
				Problem: d.GetProblem(), Snapshot: snapshotOf(d), DivergedTables: d.GetDivergedTables(),
			}
		}
	}
	return list
}

func (app *App) showStatus(regions []*controlv1.GetStatusResponse_Region) error {
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
				fmt.Sprintf("%d ms", d.GetStalenessMs()), snapshotText(d), problemText(d),
			})
		}
	}
	err := render.Table(app.Stdout, []string{"region", "role", "gateway", "link", "breaker", "state"}, regionRows, nil)
	if err != nil || len(databaseRows) == 0 {
		return err
	}
	app.printf(app.Stdout, "\n")
	return render.Table(app.Stdout, []string{"region", "database", "version", "lag", "staleness", "snapshot", "problem"}, databaseRows,
		[]bool{false, false, true, true, true})
}
