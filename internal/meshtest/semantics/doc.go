// Package semantics holds gateways to what HTTP says of each resource, whichever door it is behind: Connect, REST, GraphQL, pages,
// well-known documents, health.
package semantics
