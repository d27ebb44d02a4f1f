package meshdb

// servicesMigration makes the tables of the services that others run.
var servicesMigration = Migration{
	Name: "0005_services",
	SQL: `
CREATE TABLE services (
  name TEXT NOT NULL PRIMARY KEY, -- as its descriptors have it
  descriptors BLOB NOT NULL, -- google.protobuf.FileDescriptorSet of its file and what that imports
  access TEXT NOT NULL, -- public, authenticated or role: who may call it
  role TEXT NOT NULL, -- '' unless access is role
  pass_credentials INTEGER NOT NULL,
  registered_at INTEGER NOT NULL -- nanoseconds since 1970
) STRICT;
CREATE TABLE service_endpoints (
  service TEXT NOT NULL REFERENCES services (name) ON DELETE CASCADE,
  region TEXT NOT NULL, -- '' is each
  url TEXT NOT NULL,
  PRIMARY KEY (service, region, url)
) STRICT, WITHOUT ROWID;
`,
}

// cacheRulesMigration makes the table of which answers of services are kept.
var cacheRulesMigration = Migration{
	Name: "0008_service_cache_rules",
	SQL: `
CREATE TABLE service_cache_rules (
  service TEXT NOT NULL REFERENCES services (name) ON DELETE CASCADE,
  method TEXT NOT NULL,
  ttl_ns INTEGER NOT NULL,
  stale_ns INTEGER NOT NULL,
  key_fields TEXT NOT NULL, -- one a line; '' is all of the request
  database TEXT NOT NULL, -- '' is none
  tables TEXT NOT NULL, -- one a line
  PRIMARY KEY (service, method)
) STRICT, WITHOUT ROWID;
`,
}

// protocolsMigration makes the table of the services that do not speak what most do.
var protocolsMigration = Migration{
	Name: "0009_service_protocols",
	SQL: `
CREATE TABLE service_protocols (
  service TEXT NOT NULL PRIMARY KEY REFERENCES services (name) ON DELETE CASCADE,
  protocol TEXT NOT NULL -- grpc; what has no row speaks Connect
) STRICT, WITHOUT ROWID;
`,
}

// uncheckedMigration makes the table of the services whose requests are not checked.
var uncheckedMigration = Migration{
	Name: "0010_service_unchecked",
	SQL: `
CREATE TABLE service_unchecked (
  service TEXT NOT NULL PRIMARY KEY REFERENCES services (name) ON DELETE CASCADE
) STRICT, WITHOUT ROWID;
`,
}

// ProtocolGRPC is the protocol of a service that speaks gRPC alone, as its row says it.
const ProtocolGRPC = "grpc"

// The tables of the services that others run.
const (
	TableServiceProtocols = "service_protocols"
	TableServices         = "services"
	TableServiceEndpoints = "service_endpoints"
	TableServiceCaches    = "service_cache_rules"
	TableServiceUnchecked = "service_unchecked"
)

// Who may call a service, as its row says it.
const (
	AccessPublic        = "public"
	AccessAuthenticated = "authenticated"
	AccessRole          = "role"
)

// ServiceTables are those tables, with the columns that gateways read, in the order in which they read them.
var ServiceTables = []TableColumns{
	{TableServices, []string{"name", "descriptors", "access", "role", "pass_credentials", "registered_at"}},
	{TableServiceEndpoints, []string{"service", "region", "url"}},
	{TableServiceProtocols, []string{"service", "protocol"}},
	{TableServiceUnchecked, []string{"service"}},
	{TableServiceCaches, []string{"service", "method", "ttl_ns", "stale_ns", "key_fields", "database", "tables"}},
}

// TableColumns names columns of a table.
type TableColumns struct {
	Name    string
	Columns []string
}
