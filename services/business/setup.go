package business

import (
	"context"
	"embed"
	"fmt"
	"io/fs"
	"strings"

	"connectrpc.com/connect"

	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/gen/nearside/data/v1/datav1connect"
)

// Database is the name of the database that holds users and orders.
const Database = "business"

//go:embed migrations/*.sql
var migrationFiles embed.FS

// Setup makes the database and brings its schema up to date. It may be called at every start, by several at once too.
func Setup(ctx context.Context, data datav1connect.DataServiceClient) error {
	migrations, err := migrations()
	if err != nil {
		return err
	}
	if _, err := data.CreateDatabase(ctx, connect.NewRequest(&datav1.CreateDatabaseRequest{
		Name: Database, IfNotExists: true,
	})); err != nil {
		return fmt.Errorf("create database %s: %w", Database, err)
	}
	if _, err := data.Migrate(ctx, connect.NewRequest(&datav1.MigrateRequest{
		Database: Database, Migrations: migrations,
	})); err != nil {
		return fmt.Errorf("migrate database %s: %w", Database, err)
	}
	return nil
}

// migrations returns the embedded files in the order of their names.
func migrations() ([]*datav1.Migration, error) {
	names, err := fs.Glob(migrationFiles, "migrations/*.sql")
	if err != nil {
		return nil, fmt.Errorf("list migrations: %w", err)
	}
	list := make([]*datav1.Migration, len(names))
	for i, name := range names {
		sql, err := migrationFiles.ReadFile(name)
		if err != nil {
			return nil, fmt.Errorf("read migration %s: %w", name, err)
		}
		base := strings.TrimSuffix(strings.TrimPrefix(name, "migrations/"), ".sql")
		list[i] = &datav1.Migration{Name: base, Sql: string(sql)}
	}
	return list, nil
}
