package auth

import (
	"context"
	"crypto/sha256"
	"fmt"

	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/internal/identity"
	"github.com/nearside-dev/nearside/internal/meshdb"
	"github.com/nearside-dev/nearside/internal/value"
	"github.com/nearside-dev/nearside/services/data/changelog"
	"github.com/nearside-dev/nearside/services/data/engine"
)

// migrations is the schema of _auth, in order. Applied ones are never changed. Times are milliseconds since 1970.
var migrations = []meshdb.Migration{{
	Name: "0001_auth",
	SQL: `
CREATE TABLE passwords (
  account_id TEXT NOT NULL PRIMARY KEY,
  hash TEXT NOT NULL, -- with its parameters, as argon2's own tool writes it
  changed_at INTEGER NOT NULL
) STRICT;
CREATE TABLE sessions (
  id TEXT NOT NULL PRIMARY KEY,
  account_id TEXT NOT NULL,
  created_at INTEGER NOT NULL,
  expires_at INTEGER NOT NULL,
  ended INTEGER NOT NULL
) STRICT;
CREATE INDEX sessions_by_account ON sessions (account_id);
CREATE TABLE refresh_tokens (
  hash BLOB NOT NULL PRIMARY KEY, -- SHA-256
  session_id TEXT NOT NULL,
  expires_at INTEGER NOT NULL,
  used_at INTEGER NOT NULL -- 0 is not yet
) STRICT;
CREATE INDEX refresh_tokens_by_session ON refresh_tokens (session_id);
CREATE TABLE reset_tokens (
  hash BLOB NOT NULL PRIMARY KEY, -- SHA-256
  account_id TEXT NOT NULL,
  expires_at INTEGER NOT NULL
) STRICT;
CREATE TABLE private_keys (
  kid TEXT NOT NULL PRIMARY KEY,
  seed BLOB NOT NULL, -- Ed25519
  created_at INTEGER NOT NULL,
  signs_from INTEGER NOT NULL
) STRICT;
`,
}, {
	Name: "0002_repeated_refresh",
	SQL: `
ALTER TABLE refresh_tokens ADD COLUMN key_hash BLOB; -- SHA-256 of the idempotency key that it was used under; NULL is none
ALTER TABLE refresh_tokens ADD COLUMN parent BLOB; -- hash of the token that gave way to it; NULL is none
CREATE INDEX refresh_tokens_by_parent ON refresh_tokens (parent);
`,
}}

// migrate brings _auth up to this build's schema.
func migrate(ctx context.Context, log *changelog.Log, db *engine.DB) error {
	applied, err := log.Migrations(meshdb.AuthDatabaseID)
	if err != nil {
		return err
	}
	for i, m := range migrations {
		checksum := sha256.Sum256([]byte(m.SQL))
		if i < len(applied) {
			if applied[i].Checksum != checksum {
				return fmt.Errorf("migration %s of _auth was made by another build", m.Name)
			}
			continue
		}
		_, err := db.Transact(ctx, &engine.Transaction{
			Operations: []engine.Operation{engine.ScriptOperation(m.Name, m.SQL)},
			Migration:  &engine.Migration{Ordinal: uint32(i), Name: m.Name, Checksum: checksum},
		})
		if err != nil {
			return fmt.Errorf("migrate _auth: %w", err)
		}
	}
	return nil
}

// query calls f for each row of a statement's answer.
func query(ctx context.Context, db *engine.DB, f func([]value.Value), sql string, params ...value.Value) error {
	return db.View(ctx, func(v *engine.View) error {
		_, err := v.Query(&datav1.Statement{Sql: sql, Parameters: value.ToProtos(params)}, sink(f))
		return err
	})
}

type sink func([]value.Value)

// Columns implements sqlrun.Sink.
func (sink) Columns([]*datav1.Column) error { return nil }

// Row implements sqlrun.Sink.
func (f sink) Row(row *datav1.Row, _ int) error {
	f(value.FromProtos(row.GetValues()))
	return nil
}

// transact runs operations for the caller of ctx, and returns how many rows each has changed.
func transact(ctx context.Context, db *engine.DB, ops ...engine.Operation) (changed []int64, err error) {
	// A caller who goes away in the middle must not leave half of what spans two databases.
	c, err := db.Transact(context.WithoutCancel(ctx), &engine.Transaction{
		Operations: ops, Actor: identity.From(ctx).Actor(),
	})
	if err != nil {
		return nil, err
	}
	changed = make([]int64, len(c.Results))
	for i, r := range c.Results {
		changed[i] = r.GetRowsAffected()
	}
	return changed, nil
}

func text(s string) value.Value   { return value.Text(s) }
func integer(n int64) value.Value { return value.Integer(n) }
