// Package callers tests who gets into a mesh, and what for: authentication, roles and limits at gateways and at the primary.
package callers
