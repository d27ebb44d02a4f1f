package cli

import (
	"errors"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"

	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/internal/cli/render"
)

func (app *App) cacheCommand() *cobra.Command {
	var to target
	cmd := &cobra.Command{
		Use:   "cache",
		Short: "Look at a region's memory, and make it forget",
		Long: `Look at a region's memory of answers and values, and make it forget. Each region has its
own: --url says which.`,
		RunE: missingCommand,
	}
	to.register(cmd)
	cmd.AddCommand(app.cacheStatsCommand(&to), app.cacheInvalidateCommand(&to))
	return cmd
}

// cacheKindJSON is the numbers of one kind of entries, as programs read them.
type cacheKindJSON struct {
	Name      string `json:"name"`
	Hits      uint64 `json:"hits"`
	Misses    uint64 `json:"misses"`
	Old       uint64 `json:"old"`
	Refused   uint64 `json:"refused"`
	Evictions uint64 `json:"evictions"`
	Bytes     uint64 `json:"bytes"`
}

// cacheStatsJSON is the numbers of a region's memory.
type cacheStatsJSON struct {
	Region             string          `json:"region"`
	LimitBytes         uint64          `json:"limitBytes"`
	DatabaseLimitBytes uint64          `json:"databaseLimitBytes"`
	DatabaseBytes      *uint64         `json:"databaseBytes,omitempty"` // with --db
	Kinds              []cacheKindJSON `json:"kinds"`
}

func (app *App) cacheStatsCommand(to *target) *cobra.Command {
	var database string
	cmd := &cobra.Command{
		Use:   "stats",
		Short: "Show what a region's memory holds and how well it does",
		Args:  cobra.NoArgs,
		RunE: app.Run(func(cmd *cobra.Command, _ []string) error {
			if err := to.connect(cmd); err != nil {
				return err
			}
			res, err := to.cache.Stats(cmd.Context(), connect.NewRequest(&datav1.CacheServiceStatsRequest{Database: database}))
			if err != nil {
				return err
			}
			stats := cacheStatsOf(res.Msg, database != "")
			if app.JSON {
				return app.WriteJSON(stats)
			}
			return app.printCacheStats(stats, database)
		}),
	}
	cmd.Flags().StringVar(&database, "db", "", "show what this database takes, too")
	return cmd
}

func cacheStatsOf(m *datav1.CacheServiceStatsResponse, withDatabase bool) cacheStatsJSON {
	stats := cacheStatsJSON{
		Region: m.GetAnswer().GetRegion(), LimitBytes: m.GetLimitBytes(), DatabaseLimitBytes: m.GetDatabaseLimitBytes(),
		Kinds: []cacheKindJSON{},
	}
	if withDatabase {
		bytes := m.GetDatabaseBytes()
		stats.DatabaseBytes = &bytes
	}
	for _, k := range m.GetKinds() {
		stats.Kinds = append(stats.Kinds, cacheKindJSON{
			Name: k.GetName(), Hits: k.GetHits(), Misses: k.GetMisses(), Old: k.GetOld(), Refused: k.GetRefused(),
			Evictions: k.GetEvictions(), Bytes: k.GetBytes(),
		})
	}
	return stats
}

func (app *App) printCacheStats(stats cacheStatsJSON, database string) error {
	if stats.LimitBytes == 0 {
		app.printf(app.Stdout, "%s keeps nothing in memory\n", stats.Region)
		return nil
	}
	var rows [][]string
	for _, k := range stats.Kinds {
		row := []string{k.Name}
		for _, n := range []uint64{k.Hits, k.Misses, k.Old, k.Refused, k.Evictions, k.Bytes} {
			row = append(row, render.Group(int64(n)))
		}
		rows = append(rows, row)
	}
	header := []string{"kind", "hits", "misses", "old", "refused", "evictions", "bytes"}
	if err := render.Table(app.Stdout, header, rows, []bool{false, true, true, true, true, true, true}); err != nil {
		return err
	}
	app.printf(app.Stdout, "%s may take %s bytes, one database %s of them\n", stats.Region,
		render.Group(int64(stats.LimitBytes)), render.Group(int64(stats.DatabaseLimitBytes)))
	if stats.DatabaseBytes != nil {
		app.printf(app.Stdout, "%s takes %s bytes\n", database, render.Group(int64(*stats.DatabaseBytes)))
	}
	return nil
}

// invalidation is what to forget.
type invalidation struct {
	database, key, tag, table string
	all                       bool
}

func (i *invalidation) request() (*datav1.CacheServiceInvalidateRequest, error) {
	req := &datav1.CacheServiceInvalidateRequest{Database: i.database}
	given := 0
	for _, is := range []bool{i.key != "", i.tag != "", i.table != "", i.all} {
		if is {
			given++
		}
	}
	switch {
	case given != 1:
		return nil, Usage(errors.New("say one of --key, --tag, --table and --all"))
	case i.key != "":
		req.Target = &datav1.CacheServiceInvalidateRequest_Key{Key: i.key}
	case i.tag != "":
		req.Target = &datav1.CacheServiceInvalidateRequest_Tag{Tag: i.tag}
	case i.table != "":
		req.Target = &datav1.CacheServiceInvalidateRequest_Table{Table: i.table}
	default:
		req.Target = &datav1.CacheServiceInvalidateRequest_Everything{Everything: true}
	}
	return req, nil
}

func (app *App) cacheInvalidateCommand(to *target) *cobra.Command {
	var what invalidation
	cmd := &cobra.Command{
		Use:   "invalidate",
		Short: "Make a region's memory forget",
		Long: `Make a region's memory forget: one value by its key, the values with a tag, those that name
a table with the pages of its rows and results that read it, or all of a database. Without --db it is the values of
no database. Rows need none of it: what memory answers of them is never old.`,
		Example: "  nearside cache invalidate --db shop --tag prices",
		Args:    cobra.NoArgs,
		RunE: app.Run(func(cmd *cobra.Command, _ []string) error {
			req, err := what.request()
			if err != nil {
				return err
			}
			if err := to.connect(cmd); err != nil {
				return err
			}
			res, err := to.cache.Invalidate(cmd.Context(), connect.NewRequest(req))
			if err != nil {
				return err
			}
			region := res.Msg.GetAnswer().GetRegion()
			if app.JSON {
				return app.WriteJSON(struct {
					Region      string `json:"region"`
					Invalidated bool   `json:"invalidated"`
				}{region, true})
			}
			app.printf(app.Stdout, "%s has forgotten it\n", region)
			return nil
		}),
	}
	f := cmd.Flags()
	f.StringVar(&what.database, "db", "", "the database; none for values of no database")
	f.StringVar(&what.key, "key", "", "forget the value of this key")
	f.StringVar(&what.tag, "tag", "", "forget the values with this tag")
	f.StringVar(&what.table, "table", "", "forget the values that name this table, the pages of its rows and the results that read it")
	f.BoolVar(&what.all, "all", false, "forget everything of the database")
	return cmd
}
