// Package nodes tests who belongs to a mesh: joining, renewing, being revoked, and what those are refused who do not belong.
package nodes
