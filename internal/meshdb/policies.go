package meshdb

// policiesMigration makes the tables of the policies that say what callers may do beside their roles.
var policiesMigration = Migration{
	Name: "0007_policies",
	SQL: `
CREATE TABLE policies (
  name TEXT NOT NULL PRIMARY KEY,
  text TEXT NOT NULL, -- one statement of Cedar
  changed_at INTEGER NOT NULL, -- milliseconds since 1970
  changed_by TEXT NOT NULL -- an actor
) STRICT, WITHOUT ROWID;
CREATE TABLE account_tenants (
  account_id TEXT NOT NULL PRIMARY KEY REFERENCES accounts (id) ON DELETE CASCADE,
  tenant TEXT NOT NULL -- never ''
) STRICT, WITHOUT ROWID;
`,
}

// The tables of policies and of what they look at.
const (
	TablePolicies       = "policies"
	TableAccountTenants = "account_tenants"
)
