package replication

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"

	replicationv1 "github.com/nearside-dev/nearside/gen/nearside/replication/v1"
	"github.com/nearside-dev/nearside/internal/meshdb"
	"github.com/nearside-dev/nearside/internal/placement"
	"github.com/nearside-dev/nearside/services/data/changelog"
)

// capabilityPlacement is the ability to do without what a region may not hold: to follow records of which something was left out,
// and to delete what it may not hold any more.
const capabilityPlacement = "placement"

// limited returns the names that a region may not hold of a database, and whether it may hold anything of it.
func limited(rules *placement.Rules, database uint32, region string) (withheld []string, allowed bool) {
	if rules == nil || database == meshdb.DatabaseID {
		return nil, true
	}
	return rules.Withheld(database, region), rules.Allows(database, region)
}

// view is what a cursor's region may hold of its database. The zero view is all of it.
type view struct {
	rules    *placement.Rules
	stale    bool     // rules are not what the view is of
	withheld []string // what the region may not hold
	told     []string // what the subscriber was told of that
	// filter takes out what is withheld, and until the subscriber was told of a change what was withheld before too; nil where
	// there is nothing to take out.
	filter *placement.Filter
	// at is where the subscriber is to be told; nil where it knows.
	at *place
}

// place is a place in a database's log, and the schema there.
type place struct {
	head   changelog.Head
	schema *replicationv1.Catalog
}

// reconsider has all cursors look at the rules if these have changed.
func (s *subscriber) reconsider() {
	if rules := s.service.config.Placement(); rules != s.rules {
		s.rules = rules
		for _, c := range s.cursors {
			s.enqueue(c)
		}
	}
}

// look brings a cursor's view to what the rules are now. It reports false where the database was refused.
func (s *subscriber) look(ctx context.Context, c *cursor) (bool, error) {
	rules := s.service.config.Placement()
	if rules == c.view.rules && (!c.view.stale || c.view.at != nil) {
		return true, nil
	}
	withheld, allowed := limited(rules, c.id, s.region)
	if !allowed {
		return false, s.refuseUnplaced(c.id, "the region may not hold the database")
	}
	if slices.Equal(withheld, c.view.withheld) {
		c.view.rules, c.view.stale = rules, false
		return true, nil
	}
	stale := false
	if c.view.at != nil {
		// Records were sent without what was withheld meanwhile: that has to be told before it may be otherwise again.
		both := union(withheld, c.view.withheld)
		if slices.Equal(both, c.view.withheld) {
			c.view.rules, c.view.stale = rules, true
			return true, nil
		}
		withheld, stale = both, !slices.Equal(both, withheld)
	}
	ok, err := s.restrict(ctx, c, withheld, c.view.told)
	c.view.rules, c.view.stale = rules, stale
	return ok, err
}

// restrict has the names withheld from a subscriber that was told so far that those in told are.
func (s *subscriber) restrict(ctx context.Context, c *cursor, withheld, told []string) (bool, error) {
	switch {
	case len(withheld) == 0 && len(told) == 0:
		c.view = view{}
		return true, nil
	case !s.placements:
		return false, s.refuseUnplaced(c.id, "the region may not hold all of the database, and the sidecar is too old for that")
	}
	at, err := s.schemaOf(ctx, c.id)
	if err != nil {
		if ctx.Err() != nil {
			return false, context.Cause(ctx)
		}
		s.service.config.Logger.WarnContext(ctx, "schema not readable, so the region is sent nothing",
			slog.Uint64("database", uint64(c.id)), slog.Any("error", err))
		return false, s.refuse(c.id, replicationv1.Refusal_REASON_UNAVAILABLE, "the schema cannot be read")
	}
	c.view = view{withheld: withheld, told: told, filter: placement.NewFilter(withheld, told, at.schema)}
	if !slices.Equal(withheld, told) {
		c.view.at = at
	}
	return true, nil
}

// union returns the names of both, ascending.
func union(a, b []string) []string {
	return slices.Compact(slices.Sorted(slices.Values(slices.Concat(a, b))))
}

func (s *subscriber) refuseUnplaced(id uint32, message string) error {
	return s.refuse(id, replicationv1.Refusal_REASON_NOT_PLACED, message)
}

// schemaOf reads a database's schema and the version that it is of.
func (s *subscriber) schemaOf(ctx context.Context, id uint32) (*place, error) {
	if s.service.config.Source == nil {
		return nil, errors.New("there is no source of schemas")
	}
	source, ok := s.service.config.Source(id)
	if !ok {
		return nil, errors.New("the database is not served")
	}
	head, schema, err := source.Schema(ctx)
	if err != nil {
		return nil, err
	}
	at := &place{head: head}
	if schema != nil {
		at.schema = schema.ToProto()
	}
	return at, nil
}

// tell sends a subscriber what it may hold, once it has all records before that.
func (s *subscriber) tell(c *cursor) error {
	v := &c.view
	if v.at == nil || c.sent < v.at.head.Version {
		return nil
	}
	if c.sent > v.at.head.Version {
		return fmt.Errorf("database %d: record %d sent before the placement at %d", c.id, c.sent, v.at.head.Version)
	}
	filter := placement.NewFilter(v.withheld, v.withheld, v.at.schema)
	m := &replicationv1.Placement{
		DatabaseId: c.id, Version: v.at.head.Version, Withheld: v.withheld, Catalog: filter.Catalog(v.at.schema),
	}
	if len(v.withheld) == 0 {
		filter = nil
	}
	v.told, v.filter, v.at = v.withheld, filter, nil
	s.service.metrics.placements.Inc()
	return s.stream.Send(&replicationv1.SubscribeResponse{
		Message: &replicationv1.SubscribeResponse_Placement{Placement: m},
	})
}

// filtered takes out of records what the subscriber may not hold. They are cut before one that cannot be filtered, and before one
// that is not for it until it was told something. It reports false where the database was refused.
func (s *subscriber) filtered(c *cursor, records [][]byte) (_ [][]byte, ok bool, err error) {
	v := &c.view
	if v.at != nil {
		records = records[:min(uint64(len(records)), v.at.head.Version-c.sent)]
	}
	if v.filter == nil {
		return records, true, nil
	}
	for i := range records {
		out, err := v.filter.Record(records[i])
		if err != nil {
			if i > 0 {
				return records[:i], true, nil // the next turn begins with it
			}
			return nil, false, s.refuseUnfiltered(c.id, err)
		}
		if len(out) != len(records[i]) || &out[0] != &records[i][0] {
			s.service.metrics.filtered.Inc()
		}
		records[i] = out
	}
	return records, true, nil
}

// refuseUnfiltered has a subscriber begin anew, with a snapshot: a record is of tables that are gone, and whether it may have their
// rows nobody knows any more.
func (s *subscriber) refuseUnfiltered(id uint32, err error) error {
	if !errors.Is(err, placement.ErrUnknownTable) {
		return s.refuseUnreadable(id, err)
	}
	reason := replicationv1.Refusal_REASON_TRIMMED
	if s.snapshots {
		reason = replicationv1.Refusal_REASON_FAR_BEHIND
	}
	return s.refuse(id, reason, err.Error())
}
