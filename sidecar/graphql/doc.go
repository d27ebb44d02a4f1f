// Package graphql answers GraphQL at a gateway: /graphql, with a schema that is made of the descriptors of its services, the mesh's
// own and those that others have registered, and a page to try it at /graphiql.
//
// A field of Query, Mutation or Subscription is a method (schema.go, build.go). To resolve it is to call that method as any other
// caller does (call.go), through the gateway's own chain of checks, in the caller's name: there is no right, no limit and no session
// that is GraphQL's own. An operation runs in waves (execute.go): all calls that are known to be needed go out together, each
// distinct one once, look-ups of one kind as one where the service has a method for that; what their answers refer to is the next
// wave.
//
// What a request may ask for is bounded before anything is called (limits.go). DESIGN.md and docs/adr/029 say why.
package graphql
