package auditlog

import (
	"context"
	"fmt"

	"connectrpc.com/connect"

	authv1 "github.com/nearside-dev/nearside/gen/nearside/auth/v1"
	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/internal/audit"
	"github.com/nearside-dev/nearside/internal/rowcodec"
	"github.com/nearside-dev/nearside/internal/rpcerr"
	"github.com/nearside-dev/nearside/internal/value"
	"github.com/nearside-dev/nearside/services/data/changelog"
	"github.com/nearside-dev/nearside/services/data/engine"
)

// maxProblems is how many problems an answer has.
const maxProblems = 100

// VerifyEntries implements authv1connect.AuditServiceHandler.
func (s *Service) VerifyEntries(
	ctx context.Context, req *connect.Request[authv1.VerifyEntriesRequest],
) (*connect.Response[authv1.VerifyEntriesResponse], error) {
	if n := len(req.Msg.GetKnownHash()); n != len(audit.Hash{}) && (n != 0 || req.Msg.GetKnownSequence() != 0) {
		return nil, rpcerr.InvalidField("known_hash", "is not of %d bytes", len(audit.Hash{}))
	}
	c := &check{known: end{sequence: req.Msg.GetKnownSequence()}, spools: make(map[string]audit.Origin)}
	copy(c.known.hash[:], req.Msg.GetKnownHash())
	err := s.store.db.ViewWithSums(ctx, func(v *engine.View, sums map[uint32]changelog.TableSum) error {
		if err := c.chain(v); err != nil {
			return err
		}
		return c.sums(v, sums)
	})
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(c.result()), nil
}

// check goes through the chain once.
type check struct {
	known    end
	res      authv1.VerifyEntriesResponse
	problems int

	previous end
	ends     [2]end // as they are written: before the first entry, and the last one
	// unsure is that the entry before is not there, so that the next one's hash says nothing.
	unsure bool
	trim   string // what the last entry about a removal says
	spools map[string]audit.Origin
}

func (c *check) problemf(sequence uint64, format string, args ...any) {
	if c.problems++; c.problems <= maxProblems {
		c.res.Problems = append(c.res.Problems, &authv1.VerifyEntriesResponse_Problem{
			Sequence: sequence, Message: fmt.Sprintf(format, args...),
		})
	}
}

// chain follows the hashes.
func (c *check) chain(v *engine.View) (err error) {
	if c.ends[0], c.ends[1], err = readEnds(v); err != nil {
		c.problemf(0, "%v", err)
		return nil
	}
	c.previous = c.ends[0]
	c.res.FirstSequence = c.previous.sequence + 1
	_, err = v.Query(&datav1.Statement{Sql: "SELECT " + columns + " FROM entries ORDER BY sequence"}, sink(func(vs []value.Value) error {
		r := rowOf(vs)
		c.entry(&r)
		return nil
	}))
	if err != nil {
		return err
	}
	first, last := c.ends[0], c.ends[1]
	switch {
	case c.previous.sequence < last.sequence:
		c.problemf(c.previous.sequence+1, "entries %d to %d, the last ones, are missing", c.previous.sequence+1, last.sequence)
	case c.previous != last && c.previous.sequence == last.sequence:
		c.problemf(last.sequence, "the last entry is not the one that was recorded last")
	}
	if first.sequence > 0 && c.trim != trimTarget(first) {
		c.problemf(first.sequence, "entries up to %d are missing, and no entry says that they were removed", first.sequence)
	}
	switch k := c.known; {
	case k.sequence > last.sequence:
		c.problemf(k.sequence, "entry %d was there once, and is missing", k.sequence)
	case k.sequence != 0 && k.sequence < first.sequence:
		c.problemf(k.sequence, "entry %d was removed since, because it was old: nothing can be said about it", k.sequence)
	case k.sequence != 0 && k.sequence == first.sequence && k.hash != first.hash:
		c.problemf(k.sequence, "entry %d, which was removed since, was another one", k.sequence)
	}
	return nil
}

// entry looks at the next entry.
func (c *check) entry(r *row) {
	c.res.Entries++
	switch want := c.previous.sequence + 1; {
	case r.sequence < want:
		c.problemf(r.sequence, "entry %d is older than all that are kept", r.sequence)
		return
	case r.sequence == want+1:
		c.problemf(want, "entry %d is missing", want)
		c.unsure = true
	case r.sequence > want:
		c.problemf(want, "entries %d to %d are missing", want, r.sequence-1)
		c.unsure = true
	}
	if r.damaged || !c.unsure && audit.ChainHash(c.previous.hash, r.sequence, r.entry, r.origin) != r.hash {
		c.problemf(r.sequence, "entry %d is not what was recorded there", r.sequence)
	} else if r.sequence == c.known.sequence && r.hash != c.known.hash {
		c.problemf(r.sequence, "entry %d was another one once", r.sequence)
	}
	c.previous, c.unsure = end{r.sequence, r.hash}, false
	if r.entry.GetAction() == ActionTrim && r.origin.Spool == "" {
		c.trim = r.entry.GetTarget()
	}
	c.origin(r)
}

// origin looks at an entry's place in its spool.
func (c *check) origin(r *row) {
	if r.origin.Spool == "" {
		return
	}
	before, known := c.spools[r.origin.Spool]
	switch {
	case !known && r.origin.Sequence != 1: // what was before it may have been removed
	case known && r.origin.Sequence != before.Sequence+1:
		c.problemf(r.sequence, "entry %d of a region does not follow its entry before", r.sequence)
	case audit.SpoolHash(before.Hash, r.origin.Sequence, r.entry) != r.origin.Hash:
		c.problemf(r.sequence, "entry %d is not what its region recorded", r.sequence)
	}
	c.spools[r.origin.Spool] = r.origin
}

// sums compares all rows with what the log says that they add up to: whoever makes the whole chain anew has to make the log
// anew too.
func (c *check) sums(v *engine.View, sums map[uint32]changelog.TableSum) error {
	for _, t := range v.Catalog().Tables {
		var got changelog.TableSum
		err := v.ScanTable(t, false, func(key, stored []byte) error {
			got.Sum = got.Sum.Add(rowcodec.RowSum(t.ID, key, stored))
			got.Rows++
			return nil
		})
		switch {
		case engine.IsCorruptFile(err):
			c.problemf(0, "table %s: %v", t.Name, err)
		case err != nil:
			return err
		case got != sums[t.ID]:
			c.problemf(0, "table %s is not what the primary's log says: it was changed behind the primary's back", t.Name)
		}
	}
	return nil
}

func (c *check) result() *authv1.VerifyEntriesResponse {
	c.res.LastSequence, c.res.LastHash = c.ends[1].sequence, c.ends[1].hash[:]
	return &c.res
}
