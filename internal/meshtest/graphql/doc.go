// Package graphql has the tests of GraphQL through a whole mesh.
package graphql
