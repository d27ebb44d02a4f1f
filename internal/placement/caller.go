package placement

import (
	"context"

	"github.com/nearside-dev/nearside/internal/identity"
)

// RegionOf returns the region that a call is from: the one place that decides whom to believe. A node with a certificate is in its
// region, whatever it says. Another caller is believed; one that names no region may hold what all may.
func RegionOf(ctx context.Context, claimed string) string {
	if p := identity.From(ctx); p.Kind == identity.Node && p.Region != "" {
		return p.Region
	}
	return claimed
}
