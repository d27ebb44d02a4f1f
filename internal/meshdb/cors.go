package meshdb

// corsMigration makes the table of the policy by which pages of other origins may read what gateways answer.
var corsMigration = Migration{
	Name: "0006_cors",
	SQL: `
CREATE TABLE cors (
  name TEXT NOT NULL PRIMARY KEY, -- default: the only one
  origins TEXT NOT NULL, -- separated by spaces, as the other lists
  credentials INTEGER NOT NULL,
  allow_headers TEXT NOT NULL, -- besides those that are always allowed
  expose_headers TEXT NOT NULL, -- besides those that can always be read
  max_age_seconds INTEGER NOT NULL
) STRICT;
`,
}

// TableCORS is the table of that policy, and CORSDefault the name of its only row.
const (
	TableCORS   = "cors"
	CORSDefault = "default"
)

// CORSTables are the tables that say which pages may read answers, with the columns that gateways read, in the order in which they
// read them.
var CORSTables = []TableColumns{
	{TableRegions, []string{"name", "url"}},
	{TableCORS, []string{"name", "origins", "credentials", "allow_headers", "expose_headers", "max_age_seconds"}},
}
