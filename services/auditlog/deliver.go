package auditlog

import (
	"context"
	"sync"

	"connectrpc.com/connect"

	authv1 "github.com/nearside-dev/nearside/gen/nearside/auth/v1"
	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	replicationv1 "github.com/nearside-dev/nearside/gen/nearside/replication/v1"
	"github.com/nearside-dev/nearside/gen/nearside/replication/v1/replicationv1connect"
	"github.com/nearside-dev/nearside/internal/audit"
	"github.com/nearside-dev/nearside/internal/identity"
	"github.com/nearside-dev/nearside/internal/nodeaccess"
	"github.com/nearside-dev/nearside/internal/rpcerr"
	"github.com/nearside-dev/nearside/internal/value"
	"github.com/nearside-dev/nearside/services/data/engine"
)

// Spools answers AuditSpoolService.
type Spools struct {
	store *Store

	mu sync.Mutex // held over a delivery: there are few, and each looks at what the one before has left
}

var _ replicationv1connect.AuditSpoolServiceHandler = (*Spools)(nil)

// NewSpools returns a Spools.
func NewSpools(s *Store) *Spools { return &Spools{store: s} }

// spool is a row of spools.
type spool struct {
	region string // "" where there is none
	last   uint64
	hash   audit.Hash
}

// Deliver implements replicationv1connect.AuditSpoolServiceHandler.
func (s *Spools) Deliver(
	ctx context.Context, req *connect.Request[replicationv1.DeliverRequest],
) (*connect.Response[replicationv1.DeliverResponse], error) {
	m := req.Msg
	p := identity.From(ctx)
	if err := nodeaccess.CheckRegion(p, req.Spec().Procedure, m.GetRegion()); err != nil {
		return nil, err
	}
	for _, e := range m.GetEntries() {
		if err := checkEntry(e, m.GetRegion()); err != nil {
			return nil, err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	known, err := s.read(ctx, m.GetSpool())
	if err != nil {
		return nil, err
	}
	if known.region != "" && known.region != m.GetRegion() { // of another node it may be: its machine has joined again
		return nil, rpcerr.InvalidField("spool", "is of another region")
	}
	rows, broken := follow(known, m, p.ID)
	if broken {
		if err := s.recordBroken(ctx, known, m, p); err != nil {
			return nil, err
		}
		return connect.NewResponse(&replicationv1.DeliverResponse{LastSequence: known.last, Broken: true}), nil
	}
	last := known.last
	if len(rows) > 0 {
		end := rows[len(rows)-1].origin
		last = end.Sequence
		if err := s.store.append(ctx, &appending{rows: rows, more: []engine.Operation{engine.SQL(
			`INSERT INTO spools (spool, node, region, last_sequence, last_hash, last_time) VALUES (?1, ?2, ?3, ?4, ?5, ?6)
			ON CONFLICT (spool) DO UPDATE SET node = excluded.node, last_sequence = excluded.last_sequence,
				last_hash = excluded.last_hash, last_time = excluded.last_time`,
			text(m.GetSpool()), text(p.ID), text(m.GetRegion()), integer(int64(end.Sequence)), value.Blob(end.Hash[:]),
			integer(s.store.config.Clock().UnixNano()))}}); err != nil {
			return nil, err
		}
	}
	return connect.NewResponse(&replicationv1.DeliverResponse{LastSequence: last}), nil
}

// follow returns what of a delivery is new. broken is that it does not follow what there is.
func follow(known spool, m *replicationv1.DeliverRequest, node string) (rows []row, broken bool) {
	if m.GetFirstSequence() > known.last+1 {
		return nil, true
	}
	var hash audit.Hash
	copy(hash[:], m.GetPreviousHash())
	sequence := m.GetFirstSequence() - 1
	if sequence == known.last && hash != known.hash {
		return nil, true
	}
	for _, e := range m.GetEntries() {
		sequence++
		hash = audit.SpoolHash(hash, sequence, e)
		if sequence == known.last && hash != known.hash {
			return nil, true
		}
		if sequence > known.last {
			e.Node = node
			rows = append(rows, row{entry: e, origin: audit.Origin{Spool: m.GetSpool(), Sequence: sequence, Hash: hash}})
		}
	}
	return rows, false
}

// checkEntry refuses an entry that no recorder makes.
func checkEntry(e *authv1.AuditEntry, region string) error {
	switch {
	case e.GetRegion() != region:
		return rpcerr.InvalidField("entries.region", "is not the spool's")
	case e.GetTime() == nil || !e.GetTime().IsValid():
		return rpcerr.InvalidField("entries.time", "is required")
	case e.GetCount() == 0 || e.GetCount() > 1<<62:
		return rpcerr.InvalidField("entries.count", "is out of range")
	case e.GetAction() == ActionTrim:
		return rpcerr.InvalidField("entries.action", "is the primary's own")
	}
	for _, s := range []string{
		e.GetNode(), e.GetActor(), e.GetCredential(), e.GetAction(), e.GetTarget(), e.GetReason(), e.GetPolicy(), e.GetAddress(),
		e.GetTraceId(), e.GetRequestId(),
	} {
		if len(s) > maxText {
			return rpcerr.InvalidField("entries", "a text is longer than %d bytes", maxText)
		}
	}
	return nil
}

const maxText = 1024

// recordBroken records that a spool does not follow what was delivered of it.
func (s *Spools) recordBroken(ctx context.Context, known spool, m *replicationv1.DeliverRequest, p *identity.Principal) error {
	e := audit.Entry{
		Time: s.store.config.Clock(), Region: m.GetRegion(), Action: "audit/spool", Decision: audit.Failed,
		Target: "spool=" + m.GetSpool(), Reason: "does not follow what was delivered before",
	}
	e.By(p)
	if known.last > 0 && m.GetFirstSequence() > known.last+1 {
		e.Reason = "entries of it are missing"
	}
	return s.store.Append(ctx, e.Proto(Node, 1))
}

func (s *Spools) read(ctx context.Context, id string) (found spool, err error) {
	err = s.store.db.View(ctx, func(v *engine.View) error {
		_, err := v.Query(&datav1.Statement{
			Sql:        "SELECT region, last_sequence, last_hash FROM spools WHERE spool = ?1",
			Parameters: value.ToProtos([]value.Value{text(id)}),
		}, sink(func(v []value.Value) error {
			found = spool{region: v[0].Text(), last: uint64(v[1].Integer())}
			hashOf(&found.hash, v[2])
			return nil
		}))
		return err
	})
	return found, err
}
