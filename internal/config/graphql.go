package config

import "slices"

const (
	introspectionName  = "graphql-introspection"
	introspectionUsage = "who may ask for the GraphQL schema: authenticated, everybody or nobody"
)

// GraphQL is how a gateway answers GraphQL.
type GraphQL struct {
	Introspection string // authenticated, everybody or nobody; default authenticated
}

func defaultGraphQL() GraphQL { return GraphQL{Introspection: "authenticated"} }

func (c *GraphQL) register(s Set) { s.String(&c.Introspection, introspectionName, introspectionUsage) }

func (c *GraphQL) validate() error {
	if !slices.Contains([]string{"authenticated", "everybody", "nobody"}, c.Introspection) {
		return invalid(introspectionName, c.Introspection, "want authenticated, everybody or nobody")
	}
	return nil
}
