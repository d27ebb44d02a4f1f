package cli

import (
	"strings"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"

	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
)

// allRegions is how the command line says that there is no limit.
const allRegions = "all"

// placementText is which regions may hold a database, and those of its tables that fewer may.
func placementText(d *datav1.Database) string {
	parts := []string{regionsText(d.GetRegions())}
	for _, t := range d.GetTablePlacements() {
		parts = append(parts, t.GetTable()+": "+regionsText(t.GetRegions()))
	}
	return strings.Join(parts, "; ")
}

func regionsText(regions []string) string {
	if len(regions) == 0 {
		return allRegions
	}
	return strings.Join(regions, ", ")
}

func (app *App) dbPlaceCommand(to *target) *cobra.Command {
	var regions []string
	var table string
	cmd := &cobra.Command{
		Use:   "place NAME --regions a,b|all",
		Short: "Say which regions may hold a database, or a table of it",
		Long: `Say which regions may hold a database, or with --table one table of it. The primary
always holds all of it. A region that may not any more deletes what it has; one that may
again copies it. A table is meant by its name, whatever is or will be under that name.`,
		Args: cobra.ExactArgs(1),
		RunE: app.Run(func(cmd *cobra.Command, args []string) error {
			switch {
			case len(regions) == 0:
				return usagef("--regions: want names of regions separated by commas, or %s", allRegions)
			case cmd.Flags().Changed("table") && table == "":
				return usagef("--table: want the name of a table")
			}
			if err := to.connect(cmd); err != nil {
				return err
			}
			request := &datav1.SetPlacementRequest{Database: args[0], Table: table, Regions: regions}
			if len(regions) == 1 && regions[0] == allRegions {
				request.Regions = nil
			}
			response, err := to.data.SetPlacement(cmd.Context(), connect.NewRequest(request))
			if err != nil {
				return err
			}
			if app.JSON {
				return app.WriteJSON(struct {
					databaseJSON

					UnknownRegions []string `json:"unknownRegions,omitempty"`
					Bookmark       string   `json:"bookmark"`
				}{databaseJSONOf(response.Msg.GetDatabase()), response.Msg.GetUnknownRegions(), response.Msg.GetAnswer().GetBookmark()})
			}
			for _, name := range response.Msg.GetUnknownRegions() {
				app.printf(app.Stderr, "nearside: there is no region %s yet\n", name)
			}
			what := "database " + args[0]
			if table != "" {
				what = "table " + table + " of " + what
			}
			app.printf(app.Stdout, "%s: %s\n", what, regionsText(request.GetRegions()))
			return nil
		}),
	}
	cmd.Flags().StringSliceVar(&regions, "regions", nil, "the regions that may hold it, separated by commas, or all")
	cmd.Flags().StringVar(&table, "table", "", "a table of the database; it need not be there yet")
	return cmd
}
