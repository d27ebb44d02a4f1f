package auditlog

import (
	"context"
	"crypto/sha256"
	"fmt"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	authv1 "github.com/nearside-dev/nearside/gen/nearside/auth/v1"
	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/internal/audit"
	"github.com/nearside-dev/nearside/internal/meshdb"
	"github.com/nearside-dev/nearside/internal/value"
	"github.com/nearside-dev/nearside/services/data/changelog"
	"github.com/nearside-dev/nearside/services/data/engine"
)

// migrations is the schema of _audit, in order. Applied ones are never changed.
var migrations = []meshdb.Migration{{
	Name: "0001_audit",
	SQL: `
CREATE TABLE entries (
  sequence INTEGER PRIMARY KEY,
  time INTEGER NOT NULL, -- nanoseconds since 1970
  region TEXT NOT NULL,
  node TEXT NOT NULL,
  actor TEXT NOT NULL,
  credential TEXT NOT NULL,
  action TEXT NOT NULL,
  target TEXT NOT NULL,
  decision INTEGER NOT NULL,
  reason TEXT NOT NULL,
  policy TEXT NOT NULL,
  address TEXT NOT NULL,
  trace_id TEXT NOT NULL,
  count INTEGER NOT NULL,
  spool TEXT NOT NULL, -- '' is the primary's own
  spool_sequence INTEGER NOT NULL,
  spool_hash BLOB NOT NULL,
  hash BLOB NOT NULL
) STRICT;
CREATE TABLE spools (
  spool TEXT NOT NULL PRIMARY KEY,
  node TEXT NOT NULL,
  region TEXT NOT NULL,
  last_sequence INTEGER NOT NULL,
  last_hash BLOB NOT NULL,
  last_time INTEGER NOT NULL -- of the primary, nanoseconds since 1970
) STRICT;
CREATE TABLE ends (
  which TEXT NOT NULL PRIMARY KEY, -- first: before the oldest entry that is kept; last: the latest
  sequence INTEGER NOT NULL,
  hash BLOB NOT NULL
) STRICT;
INSERT INTO ends VALUES ('first', 0, zeroblob(32)), ('last', 0, zeroblob(32));
`,
}, {
	Name: "0002_request_id",
	SQL:  `ALTER TABLE entries ADD COLUMN request_id TEXT NOT NULL DEFAULT '';`,
}}

// migrate brings _audit up to this build's schema.
func migrate(ctx context.Context, log *changelog.Log, db *engine.DB) error {
	applied, err := log.Migrations(meshdb.AuditDatabaseID)
	if err != nil {
		return err
	}
	for i, m := range migrations {
		checksum := sha256.Sum256([]byte(m.SQL))
		if i < len(applied) {
			if applied[i].Checksum != checksum {
				return fmt.Errorf("migration %s of _audit was made by another build", m.Name)
			}
			continue
		}
		_, err := db.Transact(ctx, &engine.Transaction{
			Operations: []engine.Operation{engine.ScriptOperation(m.Name, m.SQL)},
			Migration:  &engine.Migration{Ordinal: uint32(i), Name: m.Name, Checksum: checksum},
		})
		if err != nil {
			return fmt.Errorf("migrate _audit: %w", err)
		}
	}
	return nil
}

const columns = `sequence, time, region, node, actor, credential, action, target, decision, reason, policy, address, trace_id, count,
spool, spool_sequence, spool_hash, hash, request_id`

var columnNames = []string{
	"sequence", "time", "region", "node", "actor", "credential", "action", "target", "decision", "reason", "policy", "address",
	"trace_id", "count", "spool", "spool_sequence", "spool_hash", "hash", "request_id",
}

// row is a row of entries.
type row struct {
	sequence uint64
	entry    *authv1.AuditEntry
	origin   audit.Origin
	hash     audit.Hash
	damaged  bool // a hash is none
}

func (r *row) values() []value.Value {
	e := r.entry
	return []value.Value{
		integer(int64(r.sequence)), integer(audit.TimeOf(e)), text(e.GetRegion()), text(e.GetNode()), text(e.GetActor()),
		text(e.GetCredential()), text(e.GetAction()), text(e.GetTarget()), integer(int64(e.GetDecision())), text(e.GetReason()),
		text(e.GetPolicy()), text(e.GetAddress()), text(e.GetTraceId()), integer(int64(e.GetCount())), text(r.origin.Spool),
		integer(int64(r.origin.Sequence)), value.Blob(r.origin.Hash[:]), value.Blob(r.hash[:]), text(e.GetRequestId()),
	}
}

// rowOf reads the columns of a row. It keeps nothing of v.
func rowOf(v []value.Value) row {
	r := row{
		sequence: uint64(v[0].Integer()),
		entry: &authv1.AuditEntry{
			Time: timestamppb.New(time.Unix(0, v[1].Integer())), Region: v[2].Text(), Node: v[3].Text(), Actor: v[4].Text(),
			Credential: v[5].Text(), Action: v[6].Text(), Target: v[7].Text(), Decision: authv1.AuditDecision(v[8].Integer()),
			Reason: v[9].Text(), Policy: v[10].Text(), Address: v[11].Text(), TraceId: v[12].Text(), Count: uint64(v[13].Integer()),
			RequestId: v[18].Text(),
		},
		origin: audit.Origin{Spool: v[14].Text(), Sequence: uint64(v[15].Integer())},
	}
	r.damaged = !hashOf(&r.origin.Hash, v[16]) || !hashOf(&r.hash, v[17])
	return r
}

func hashOf(to *audit.Hash, v value.Value) bool {
	return len(v.Bytes()) == len(to) && copy(to[:], v.Bytes()) == len(to)
}

// end is a row of ends.
type end struct {
	sequence uint64
	hash     audit.Hash
}

func readEnds(v *engine.View) (first, last end, err error) {
	found := 0
	_, err = v.Query(&datav1.Statement{Sql: "SELECT which, sequence, hash FROM ends"}, sink(func(v []value.Value) error {
		e := &first
		if v[0].Text() == "last" {
			e = &last
		}
		if e.sequence = uint64(v[1].Integer()); hashOf(&e.hash, v[2]) {
			found++
		}
		return nil
	}))
	if err == nil && found != 2 {
		err = errEnds
	}
	return first, last, err
}

func setEnd(which string, e end) engine.Operation {
	return engine.SQL("INSERT OR REPLACE INTO ends (which, sequence, hash) VALUES (?1, ?2, ?3)",
		text(which), integer(int64(e.sequence)), value.Blob(e.hash[:]))
}

type sink func([]value.Value) error

// Columns implements sqlrun.Sink.
func (sink) Columns([]*datav1.Column) error { return nil }

// Row implements sqlrun.Sink.
func (f sink) Row(r *datav1.Row, _ int) error { return f(value.FromProtos(r.GetValues())) }

func text(s string) value.Value   { return value.Text(s) }
func integer(n int64) value.Value { return value.Integer(n) }
