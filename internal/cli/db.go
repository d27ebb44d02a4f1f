package cli

import (
	"context"
	"strconv"
	"time"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"

	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/internal/rpcerr"
)

func (app *App) dbCommand() *cobra.Command {
	var to target
	cmd := &cobra.Command{
		Use:   "db",
		Short: "Create, list, place and delete databases",
		RunE:  missingCommand,
	}
	to.register(cmd)
	cmd.AddCommand(app.dbCreateCommand(&to), app.dbListCommand(&to), app.dbPlaceCommand(&to), app.dbDeleteCommand(&to))
	return cmd
}

// databaseJSON is a database as programs read it.
type databaseJSON struct {
	Name      string   `json:"name"`
	ID        uint32   `json:"id"`
	Version   uint64   `json:"version"`
	Regions   []string `json:"regions"`   // empty: all
	CreatedAt string   `json:"createdAt"` // RFC 3339

	Tables []tablePlacementJSON `json:"tablePlacements,omitempty"`
}

// tablePlacementJSON is a table that fewer regions may hold.
type tablePlacementJSON struct {
	Table   string   `json:"table"`
	Regions []string `json:"regions"`
}

func databaseJSONOf(d *datav1.Database) databaseJSON {
	var tables []tablePlacementJSON
	for _, t := range d.GetTablePlacements() {
		tables = append(tables, tablePlacementJSON{Table: t.GetTable(), Regions: t.GetRegions()})
	}
	return databaseJSON{
		Tables: tables,
		Name:   d.GetName(), ID: d.GetId(), Version: d.GetVersion(),
		Regions:   append([]string{}, d.GetRegions()...),
		CreatedAt: d.GetCreateTime().AsTime().Format(time.RFC3339Nano),
	}
}

func (app *App) dbCreateCommand(to *target) *cobra.Command {
	var regions []string
	var ifNotExists bool
	cmd := &cobra.Command{
		Use:   "create NAME",
		Short: "Create an empty database",
		Args:  cobra.ExactArgs(1),
		RunE: app.Run(func(cmd *cobra.Command, args []string) error {
			if err := to.connect(cmd); err != nil {
				return err
			}
			response, err := to.data.CreateDatabase(cmd.Context(), connect.NewRequest(&datav1.CreateDatabaseRequest{
				Name: args[0], Regions: regions, IfNotExists: ifNotExists,
			}))
			if err != nil {
				return err
			}
			if app.JSON {
				return app.WriteJSON(struct {
					databaseJSON

					Bookmark string `json:"bookmark"`
				}{databaseJSONOf(response.Msg.GetDatabase()), response.Msg.GetAnswer().GetBookmark()})
			}
			app.printf(app.Stdout, "database %s is there\n", args[0])
			return nil
		}),
	}
	cmd.Flags().StringSliceVar(&regions, "regions", nil, "the regions that may hold it, separated by commas (default all)")
	cmd.Flags().StringSliceVar(&regions, "region", nil, "the same")
	cmd.Flags().BoolVar(&ifNotExists, "if-not-exists", false, "leave a database of this name as it is")
	return cmd
}

func (app *App) dbListCommand(to *target) *cobra.Command {
	var format *string
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List the databases",
		Args:  cobra.NoArgs,
		RunE: app.Run(func(cmd *cobra.Command, _ []string) error {
			if err := to.connect(cmd); err != nil {
				return err
			}
			if err := app.chooseFormat(cmd, format, listFormats); err != nil {
				return err
			}
			list, err := app.listDatabases(cmd.Context(), to)
			if err != nil {
				return err
			}
			if app.JSON {
				databases := make([]databaseJSON, len(list))
				for i, d := range list {
					databases[i] = databaseJSONOf(d)
				}
				return app.WriteJSON(map[string][]databaseJSON{"databases": databases})
			}
			rows := make([][]string, len(list))
			for i, d := range list {
				regions := placementText(d)
				created := d.GetCreateTime().AsTime().Local().Format(time.DateTime)
				rows[i] = []string{d.GetName(), strconv.FormatUint(d.GetVersion(), 10), regions, created}
			}
			return app.writeList(*format, []string{"name", "version", "regions", "created"}, rows, []bool{false, true})
		}),
	}
	format = listFormat(cmd)
	return cmd
}

// listDatabases asks the primary, so that a database just created anywhere is there, and the region when there is no
// primary to ask.
func (app *App) listDatabases(ctx context.Context, to *target) ([]*datav1.Database, error) {
	request := &datav1.ListDatabasesRequest{
		Consistency: &datav1.Consistency{Level: datav1.Consistency_LEVEL_PRIMARY},
	}
	response, err := to.data.ListDatabases(ctx, connect.NewRequest(request))
	if connect.CodeOf(rpcerr.Unanswered(err)) == connect.CodeUnavailable {
		request.Consistency.Level = datav1.Consistency_LEVEL_ANY
		unavailable := err
		if response, err = to.data.ListDatabases(ctx, connect.NewRequest(request)); err == nil {
			app.printf(app.Stderr, "nearside: the list is the region's own: %v\n", unavailable)
		}
	}
	if err != nil {
		return nil, err
	}
	return response.Msg.GetDatabases(), nil
}

func (app *App) dbDeleteCommand(to *target) *cobra.Command {
	var yes bool
	cmd := &cobra.Command{
		Use:   "delete NAME --yes",
		Short: "Delete a database and its data in all regions",
		Args:  cobra.ExactArgs(1),
		RunE: app.Run(func(cmd *cobra.Command, args []string) error {
			if !yes {
				return usagef("deleting %s and its data in all regions cannot be undone: say --yes if that is meant", args[0])
			}
			if err := to.connect(cmd); err != nil {
				return err
			}
			response, err := to.data.DeleteDatabase(cmd.Context(),
				connect.NewRequest(&datav1.DeleteDatabaseRequest{Name: args[0]}))
			if err != nil {
				return err
			}
			if app.JSON {
				return app.WriteJSON(struct {
					Name     string `json:"name"`
					Deleted  bool   `json:"deleted"`
					Bookmark string `json:"bookmark"`
				}{args[0], true, response.Msg.GetAnswer().GetBookmark()})
			}
			app.printf(app.Stdout, "database %s is gone\n", args[0])
			return nil
		}),
	}
	cmd.Flags().BoolVar(&yes, "yes", false, "delete without asking")
	return cmd
}
