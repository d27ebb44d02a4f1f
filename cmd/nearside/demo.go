package main

import (
	"context"
	"fmt"

	"connectrpc.com/connect"

	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/gen/nearside/data/v1/datav1connect"
)

// demoDatabase is there for the first steps: it is what the commands use unless another one is named.
const demoDatabase = "demo"

var demoSQL = []string{
	`CREATE TABLE greetings (id INTEGER PRIMARY KEY, text TEXT NOT NULL)`,
	`INSERT INTO greetings (text) VALUES ('Hello from the primary'), ('Bonjour'), ('こんにちは')`,
}

// setupDemo makes the demo database, unless it is there. It leaves alone one that has ever been written to. It is not a
// migration, so that those who try migrations on it find none before their own.
func setupDemo(ctx context.Context, data datav1connect.DataServiceClient) error {
	created, err := data.CreateDatabase(ctx, connect.NewRequest(&datav1.CreateDatabaseRequest{
		Name: demoDatabase, IfNotExists: true,
	}))
	if err != nil {
		return fmt.Errorf("create database %s: %w", demoDatabase, err)
	}
	if created.Msg.GetDatabase().GetVersion() > 0 {
		return nil
	}
	request := &datav1.TransactRequest{Database: demoDatabase}
	for _, sql := range demoSQL {
		request.Operations = append(request.Operations, &datav1.Operation{
			Operation: &datav1.Operation_Statement{Statement: &datav1.Statement{Sql: sql}},
		})
	}
	if _, err := data.Transact(ctx, connect.NewRequest(request)); err != nil {
		return fmt.Errorf("fill database %s: %w", demoDatabase, err)
	}
	return nil
}
