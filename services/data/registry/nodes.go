package registry

import (
	"context"
	"fmt"

	"github.com/nearside-dev/nearside/internal/identity"
	"github.com/nearside-dev/nearside/internal/meshdb"
	"github.com/nearside-dev/nearside/internal/value"
	"github.com/nearside-dev/nearside/services/data/engine"
)

// AddNode writes the row of a node that joins.
func (r *Registry) AddNode(ctx context.Context, n meshdb.Node) error {
	_, err := r.mesh.Transact(ctx, &engine.Transaction{Operations: []engine.Operation{engine.SQL(
		"INSERT INTO nodes (id, region, joined_at) VALUES (?1, ?2, ?3)",
		value.Text(n.ID), value.Text(n.Region), value.Integer(n.JoinedAt))}, Actor: identity.From(ctx).Actor()})
	if err != nil {
		return fmt.Errorf("add node %s: %w", n.ID, err)
	}
	return nil
}

// RevokeNode writes when a node was revoked, unless it was already.
func (r *Registry) RevokeNode(ctx context.Context, id string, at int64) error {
	_, err := r.mesh.Transact(ctx, &engine.Transaction{Operations: []engine.Operation{engine.SQL(
		"UPDATE nodes SET revoked_at = ?2 WHERE id = ?1 AND revoked_at IS NULL", value.Text(id), value.Integer(at))}, Actor: identity.From(ctx).Actor()})
	if err != nil {
		return fmt.Errorf("revoke node %s: %w", id, err)
	}
	return nil
}

// Nodes returns all nodes that ever joined, the latest first.
func (r *Registry) Nodes(ctx context.Context) ([]meshdb.Node, error) {
	var nodes []meshdb.Node
	err := r.query(ctx, "SELECT id, region, joined_at, revoked_at FROM nodes ORDER BY joined_at DESC, id", func(vs []value.Value) {
		n := meshdb.Node{ID: vs[0].Text(), Region: vs[1].Text(), JoinedAt: vs[2].Integer()}
		if !vs[3].IsNull() {
			n.RevokedAt = vs[3].Integer()
		}
		nodes = append(nodes, n)
	})
	return nodes, err
}
