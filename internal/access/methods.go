package access

import (
	"connectrpc.com/grpchealth"

	authv1 "github.com/nearside-dev/nearside/gen/nearside/auth/v1"
	"github.com/nearside-dev/nearside/gen/nearside/auth/v1/authv1connect"
	"github.com/nearside-dev/nearside/gen/nearside/control/v1/controlv1connect"
	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/gen/nearside/data/v1/datav1connect"
	"github.com/nearside-dev/nearside/gen/nearside/replication/v1/replicationv1connect"
	"github.com/nearside-dev/nearside/internal/catalog"
	"github.com/nearside-dev/nearside/internal/sqlsplit"
)

// rule is what a method needs.
type rule struct {
	right Right
	node  bool // it is the nodes' own: no account may call it
	// reach is what a method that names a database reaches of it. Who is restricted there may call it only where that is known.
	reach reach
}

type reach uint8

const (
	reachAll    reach = iota // any table
	reachTable               // the table that the message names
	reachTyped               // the tables that the message's operations name, if none of them is SQL
	reachSchema              // no rows
)

// rules are those of all methods of the mesh. Others, of services that are mounted beside it, need RightAny: what they do with
// the data they do with their caller's credential.
var rules = map[string]rule{
	datav1connect.DataServiceGetProcedure:            {right: RightRead, reach: reachTable},
	datav1connect.DataServiceBatchGetProcedure:       {right: RightRead, reach: reachTable},
	datav1connect.DataServiceListProcedure:           {right: RightRead, reach: reachTable},
	datav1connect.DataServiceQueryProcedure:          {right: RightRead},
	datav1connect.DataServiceQueryStreamProcedure:    {right: RightRead},
	datav1connect.DataServiceExportProcedure:         {right: RightRead},
	datav1connect.DataServiceWatchProcedure:          {right: RightRead, reach: reachTable},
	datav1connect.DataServiceWatchQueryProcedure:     {right: RightRead},
	datav1connect.DataServiceGetDatabaseProcedure:    {right: RightRead, reach: reachSchema},
	datav1connect.DataServiceListMigrationsProcedure: {right: RightRead},
	datav1connect.DataServiceListDatabasesProcedure:  {right: RightAny, reach: reachSchema}, // the answer has those that the caller may read
	datav1connect.DataServiceExecuteProcedure:        {right: RightWrite},
	datav1connect.DataServiceTransactProcedure:       {right: RightWrite, reach: reachTyped},
	datav1connect.DataServiceBatchInsertProcedure:    {right: RightWrite, reach: reachTable},
	datav1connect.DataServiceMigrateProcedure:        {right: RightOwn},
	datav1connect.DataServiceDeleteDatabaseProcedure: {right: RightOwn},
	datav1connect.DataServiceCreateDatabaseProcedure: {right: RightAdmin, reach: reachSchema},
	datav1connect.DataServiceSetPlacementProcedure:   {right: RightAdmin, reach: reachSchema}, // where data may be is not for those to say who own it

	datav1connect.CacheServiceGetProcedure:        {right: RightRead},
	datav1connect.CacheServiceSetProcedure:        {right: RightWrite},
	datav1connect.CacheServiceInvalidateProcedure: {right: RightWrite},
	datav1connect.CacheServiceStatsProcedure:      {right: RightRead},

	controlv1connect.StatusServiceGetStatusProcedure: {right: RightAny},
	controlv1connect.VerifyServiceVerifyProcedure:    {right: RightAdmin},
	controlv1connect.VerifyServiceReadStateProcedure: {right: RightAdmin},

	controlv1connect.NodeServiceRenewProcedure:                {node: true},
	controlv1connect.NodeAdminServiceListNodesProcedure:       {right: RightAdmin},
	controlv1connect.NodeAdminServiceRevokeNodeProcedure:      {right: RightAdmin},
	controlv1connect.NodeAdminServiceCreateJoinTokenProcedure: {right: RightAdmin},

	controlv1connect.ServiceRegistryServiceRegisterServiceProcedure: {right: RightAdmin},
	controlv1connect.ServiceRegistryServiceListServicesProcedure:    {right: RightAdmin},
	controlv1connect.ServiceRegistryServiceRemoveServiceProcedure:   {right: RightAdmin},

	controlv1connect.CorsServiceGetCorsPolicyProcedure:   {right: RightAdmin},
	controlv1connect.CorsServiceSetCorsPolicyProcedure:   {right: RightAdmin},
	controlv1connect.CorsServiceClearCorsPolicyProcedure: {right: RightAdmin},

	authv1connect.AuthServiceAuthorizeProcedure:      {right: RightAny},
	authv1connect.AuthServiceRevokeTokenProcedure:    {right: RightAny}, // whose it is, it finds out by itself
	authv1connect.AuthServiceChangePasswordProcedure: {right: RightAny},

	authv1connect.AccountServiceCreateAccountProcedure:    {right: RightAdmin},
	authv1connect.AccountServiceListAccountsProcedure:     {right: RightAdmin},
	authv1connect.AccountServiceSetDisabledProcedure:      {right: RightAdmin},
	authv1connect.AccountServiceGrantRoleProcedure:        {right: RightAdmin},
	authv1connect.AccountServiceRevokeRoleProcedure:       {right: RightAdmin},
	authv1connect.AccountServiceCreateApiKeyProcedure:     {right: RightAdmin},
	authv1connect.AccountServiceListApiKeysProcedure:      {right: RightAdmin},
	authv1connect.AccountServiceRotateApiKeyProcedure:     {right: RightAdmin},
	authv1connect.AccountServiceRevokeApiKeyProcedure:     {right: RightAdmin},
	authv1connect.AccountServiceRotateSigningKeyProcedure: {right: RightAdmin},
	authv1connect.AccountServiceCreateResetTokenProcedure: {right: RightAdmin},
	authv1connect.AccountServiceSetTenantProcedure:        {right: RightAdmin},
	authv1connect.AccountServiceSetRateLimitProcedure:     {right: RightAdmin},
	authv1connect.AccountServiceListRateLimitsProcedure:   {right: RightAdmin},
	authv1connect.AccountServiceDeleteRateLimitProcedure:  {right: RightAdmin},

	authv1connect.AuditServiceListEntriesProcedure:   {right: RightAdmin, reach: reachSchema},
	authv1connect.AuditServiceListWritesProcedure:    {right: RightAdmin, reach: reachSchema},
	authv1connect.AuditServiceVerifyEntriesProcedure: {right: RightAdmin, reach: reachSchema},

	authv1connect.PolicyServicePutPolicyProcedure:       {right: RightAdmin},
	authv1connect.PolicyServiceListPoliciesProcedure:    {right: RightAdmin},
	authv1connect.PolicyServiceGetPolicyProcedure:       {right: RightAdmin},
	authv1connect.PolicyServiceDeletePolicyProcedure:    {right: RightAdmin},
	authv1connect.PolicyServiceTestPoliciesProcedure:    {right: RightAdmin},
	authv1connect.PolicyServiceExplainPolicyProcedure:   {right: RightAdmin},
	authv1connect.PolicyServiceGetPolicySchemaProcedure: {right: RightAdmin},

	replicationv1connect.AuditSpoolServiceDeliverProcedure:    {node: true},
	replicationv1connect.BundleServiceTransactBundleProcedure: {node: true},
	replicationv1connect.ReplicationServiceSubscribeProcedure: {node: true},
	replicationv1connect.ReplicationServiceSnapshotProcedure:  {node: true},
}

// public are the paths that need no credential: those by which one gets one, and those that say whether a listener is well.
// Reflection is not among them: what there is to call is for those who may call.
var public = map[string]bool{
	"/healthz":                                true,
	"/readyz":                                 true,
	"/.well-known/jwks.json":                  true,
	"/.well-known/openid-configuration":       true,
	authv1connect.AuthServiceGetJwksProcedure: true,
	// Which file has a token; to read it is for the file's owner.
	controlv1connect.NodeServiceLocateTokenProcedure: true,

	"/" + grpchealth.HealthV1ServiceName + "/Check": true,
	"/" + grpchealth.HealthV1ServiceName + "/Watch": true,
}

// login are the public paths on which secrets can be guessed: each address has few of them.
var login = map[string]bool{
	authv1connect.AuthServiceAuthenticateProcedure:  true,
	authv1connect.AuthServiceRefreshTokenProcedure:  true,
	authv1connect.AuthServiceResetPasswordProcedure: true,
	controlv1connect.NodeServiceJoinProcedure:       true, // for a join token
}

func ruleOf(procedure string) rule { return rules[procedure] }

// question returns what a call with a message wants to do.
func question(procedure string, msg any) Question {
	q := Question{Action: procedure, Right: ruleOf(procedure).right}
	switch m := msg.(type) {
	case *datav1.CreateDatabaseRequest:
		q.Database = m.GetName()
	case *datav1.DeleteDatabaseRequest:
		q.Database = m.GetName()
	case *datav1.GetDatabaseRequest:
		q.Database = m.GetName()
	case *authv1.AuthorizeRequest, *authv1.ExplainPolicyRequest: // ask about a database and do nothing to it
	case *datav1.ExecuteRequest:
		q.Database = m.GetDatabase()
		if mayOnlyRead(m.GetStatement().GetSql()) {
			q.Right = RightRead // if it writes after all, the primary asks again
		}
	case interface {
		GetDatabase() string
		GetTable() string
	}:
		q.Database, q.Table = m.GetDatabase(), catalog.Fold(m.GetTable())
	case interface{ GetDatabase() string }:
		q.Database = m.GetDatabase()
	}
	return q
}

func mayOnlyRead(sql string) bool {
	switch sqlsplit.Kind(sql) {
	case "SELECT", "VALUES", "WITH", "EXPLAIN", "PRAGMA":
		return true
	default:
		return false
	}
}
