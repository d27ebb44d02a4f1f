package meshdb

// AuthDatabaseID is the id of _auth, the primary's own database of password hashes, refresh tokens and private keys. No row
// names it: it is followed by nobody, and no caller's request finds it.
const (
	AuthName       = "_auth"
	AuthDatabaseID = uint32(2)
)

// authMigration is what a region needs to verify callers by itself.
var authMigration = Migration{
	Name: "0003_auth",
	SQL: `
CREATE TABLE accounts (
  id TEXT NOT NULL PRIMARY KEY,
  kind TEXT NOT NULL, -- user or service
  name TEXT NOT NULL UNIQUE,
  disabled INTEGER NOT NULL,
  tokens_after INTEGER NOT NULL, -- milliseconds since 1970: access tokens made up to then are revoked
  created_at INTEGER NOT NULL -- milliseconds since 1970, as all times of these tables
) STRICT;
CREATE TABLE account_roles (
  account_id TEXT NOT NULL REFERENCES accounts (id) ON DELETE CASCADE,
  role TEXT NOT NULL, -- admin, or a database's reader, writer or owner
  database TEXT NOT NULL,
  PRIMARY KEY (account_id, role, database)
) STRICT, WITHOUT ROWID;
CREATE TABLE api_keys (
  id TEXT NOT NULL PRIMARY KEY,
  account_id TEXT NOT NULL REFERENCES accounts (id) ON DELETE CASCADE,
  hash BLOB NOT NULL UNIQUE, -- SHA-256 of 256 random bits, which nobody can guess
  prefix TEXT NOT NULL,
  created_at INTEGER NOT NULL,
  expires_at INTEGER NOT NULL -- 0 is never
) STRICT;
CREATE TABLE signing_keys (
  kid TEXT NOT NULL PRIMARY KEY,
  issuer TEXT NOT NULL,
  public_key BLOB NOT NULL, -- Ed25519
  created_at INTEGER NOT NULL,
  verifies_until INTEGER NOT NULL -- 0 is as long as it signs
) STRICT;
CREATE TABLE revocations (
  id TEXT NOT NULL PRIMARY KEY, -- of an access token or of a session
  expires_at INTEGER NOT NULL -- after which no such token can be valid
) STRICT;
CREATE TABLE rate_limits (
  scope TEXT NOT NULL, -- identity, address, method or database
  subject TEXT NOT NULL, -- '' is each one that has no row of its own
  per_second REAL NOT NULL,
  burst INTEGER NOT NULL,
  PRIMARY KEY (scope, subject)
) STRICT, WITHOUT ROWID;
CREATE TRIGGER database_roles_end AFTER DELETE ON databases BEGIN
  DELETE FROM account_roles WHERE database = OLD.name;
  DELETE FROM rate_limits WHERE scope = 'database' AND subject = OLD.name;
END;
`,
}

// The tables that say who may call, and how much.
const (
	TableAccounts     = "accounts"
	TableAccountRoles = "account_roles"
	TableAPIKeys      = "api_keys"
	TableSigningKeys  = "signing_keys"
	TableRevocations  = "revocations"
	TableRateLimits   = "rate_limits"
)

// AccessTables are those tables, with the columns that those who verify callers read, in the order in which they read them.
var AccessTables = []TableColumns{
	{TableAccounts, []string{"id", "kind", "name", "disabled", "tokens_after"}},
	{TableAccountRoles, []string{"account_id", "role", "database"}},
	{TableAPIKeys, []string{"id", "account_id", "hash", "expires_at"}},
	{TableSigningKeys, []string{"kid", "issuer", "public_key", "verifies_until"}},
	{TableRevocations, []string{"id", "expires_at"}},
	{TableRateLimits, []string{"scope", "subject", "per_second", "burst"}},
	{TableAccountTenants, []string{"account_id", "tenant"}},
	{TablePolicies, []string{"name", "text"}},
}
