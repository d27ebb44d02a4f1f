// Package mesh is the way from a gateway to the services that others run: /package.Service/Method of those that are registered
// in _mesh goes to one of their endpoints and the answer back, whatever the protocol, message by message as they come.
//
// The router (router.go) finds the method in the table (table.go), which is the region's copy of _mesh, asks whether the caller
// may, and takes an endpoint (pick.go): of two at random the one that costs less, in the region, then in the nearest one.
// Endpoints are left out while their breaker is open (endpoint.go) or their check fails (check.go). Two ways lead there: any
// call can go over net/http's transports (forward.go); a small unary call over HTTP/1.1 goes without net/http on both sides
// (express.go, wire.go, pool.go), for less than half the work.
//
// Where the descriptors have rules for a method's requests, these are checked before any of them goes on (validate.go): unary ones
// before their caller's roles are asked, streams message by message, whose answers end between two of their own (ending.go).
//
// A call is repeated only where that is safe and nothing of it was sent, within a budget. DESIGN.md says why.
package mesh
