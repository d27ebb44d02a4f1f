package cli

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"unicode/utf8"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"

	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/internal/cli/render"
)

// migrationSuffix is how the names of migration files end.
const migrationSuffix = ".sql"

// migrationJSON is a migration as programs read it.
type migrationJSON struct {
	Name     string `json:"name"`
	Checksum string `json:"checksum"`
	Version  uint64 `json:"version"`
}

func (app *App) migrateCommand() *cobra.Command {
	var to target
	var db *string
	var create bool
	cmd := &cobra.Command{
		Use:   "migrate DIR",
		Short: "Apply the migrations of a folder that are not applied yet",
		Long: `Apply the migrations of a folder: its *.sql files in the order of their names, each
all or nothing. Those applied before are left alone; one that has changed since,
or that would come before an applied one, is refused by name and nothing is done.`,
		Example: "  nearside migrate --db shop migrations/",
		Args:    cobra.ExactArgs(1),
		RunE: app.Run(func(cmd *cobra.Command, args []string) error {
			if err := to.connect(cmd); err != nil {
				return err
			}
			migrations, err := readMigrations(args[0])
			if err != nil {
				return err
			}
			if create {
				if err := to.createDatabase(cmd.Context(), *db); err != nil {
					return err
				}
			}
			response, err := to.data.Migrate(cmd.Context(), connect.NewRequest(&datav1.MigrateRequest{
				Database: *db, Migrations: migrations,
			}))
			if err != nil {
				return err
			}
			return app.showMigrations(*db, response.Msg)
		}),
	}
	to.register(cmd)
	db = to.database(cmd)
	cmd.Flags().BoolVar(&create, "create", false, "create the database if there is none")
	return cmd
}

// createDatabase creates the database if there is none.
func (t *target) createDatabase(ctx context.Context, name string) error {
	_, err := t.data.CreateDatabase(ctx, connect.NewRequest(&datav1.CreateDatabaseRequest{Name: name, IfNotExists: true}))
	return err
}

// readMigrations reads a folder's migrations in order.
func readMigrations(dir string) ([]*datav1.Migration, error) {
	entries, err := os.ReadDir(dir) // by name
	if err != nil {
		return nil, fmt.Errorf("read migrations: %w", err)
	}
	entries = slices.DeleteFunc(entries, func(e os.DirEntry) bool {
		return e.IsDir() || !strings.HasSuffix(e.Name(), migrationSuffix)
	})
	if len(entries) == 0 {
		return nil, fmt.Errorf("read migrations: %s has no *%s file", dir, migrationSuffix)
	}
	migrations := make([]*datav1.Migration, len(entries))
	for i, e := range entries {
		text, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			return nil, fmt.Errorf("read migrations: %w", err)
		}
		if !utf8.Valid(text) {
			return nil, fmt.Errorf("read migrations: %s:%d: not valid UTF-8: write other bytes as x'…' or CAST(x'…' AS TEXT)",
				filepath.Join(dir, e.Name()), invalidLine(text))
		}
		migrations[i] = &datav1.Migration{Name: strings.TrimSuffix(e.Name(), migrationSuffix), Sql: string(text)}
	}
	slices.SortFunc(migrations, func(a, b *datav1.Migration) int { return strings.Compare(a.GetName(), b.GetName()) })
	return migrations, nil
}

// invalidLine returns the line of the first byte that is not UTF-8.
func invalidLine(text []byte) int {
	line := 1
	for len(text) > 0 {
		r, n := utf8.DecodeRune(text)
		if r == utf8.RuneError && n == 1 {
			break
		}
		if r == '\n' {
			line++
		}
		text = text[n:]
	}
	return line
}

func (app *App) showMigrations(db string, response *datav1.MigrateResponse) error {
	if app.JSON {
		applied := make([]migrationJSON, len(response.GetApplied()))
		for i, m := range response.GetApplied() {
			applied[i] = migrationJSON{Name: m.GetName(), Checksum: m.GetChecksum(), Version: m.GetVersion()}
		}
		return app.WriteJSON(struct {
			Database       string          `json:"database"`
			Applied        []migrationJSON `json:"applied"`
			AlreadyApplied uint32          `json:"alreadyApplied"`
			Bookmark       string          `json:"bookmark"`
		}{db, applied, response.GetAlreadyApplied(), response.GetAnswer().GetBookmark()})
	}
	for _, m := range response.GetApplied() {
		app.printf(app.Stdout, "applied %s (version %d)\n", m.GetName(), m.GetVersion())
	}
	app.printf(app.Stdout, "%s applied to %s, %s before\n", render.Count(int64(len(response.GetApplied())), "migration"), db,
		render.Group(int64(response.GetAlreadyApplied())))
	return nil
}
