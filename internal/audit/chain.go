package audit

import (
	"crypto/sha256"
	"encoding/binary"

	authv1 "github.com/nearside-dev/nearside/gen/nearside/auth/v1"
)

// Hash binds an entry to all before it. The zero one is before the first.
type Hash [sha256.Size]byte

// What a hash is of, so that one of a spool is none of the primary's chain.
const (
	spoolDomain = "nearside audit spool 1"
	chainDomain = "nearside audit chain 1"
)

// SpoolHash returns the hash of an entry of a spool. The node is not in it: the primary says which one it was.
func SpoolHash(previous Hash, sequence uint64, e *authv1.AuditEntry) Hash {
	b := append([]byte(spoolDomain), previous[:]...)
	b = binary.BigEndian.AppendUint64(b, sequence)
	return sha256.Sum256(appendEntry(b, e, ""))
}

// Origin is where in a spool an entry was; the zero one is of the primary's own entries.
type Origin struct {
	Spool    string
	Sequence uint64
	Hash     Hash
}

// ChainHash returns the hash of an entry of the primary's chain.
func ChainHash(previous Hash, sequence uint64, e *authv1.AuditEntry, o Origin) Hash {
	b := append([]byte(chainDomain), previous[:]...)
	b = binary.BigEndian.AppendUint64(b, sequence)
	b = appendText(b, o.Spool)
	b = binary.BigEndian.AppendUint64(b, o.Sequence)
	b = append(b, o.Hash[:]...)
	return sha256.Sum256(appendEntry(b, e, e.GetNode()))
}

// appendEntry appends an entry so that no two have the same bytes: each text with its length before it.
func appendEntry(b []byte, e *authv1.AuditEntry, node string) []byte {
	b = binary.BigEndian.AppendUint64(b, uint64(TimeOf(e)))
	b = binary.BigEndian.AppendUint64(b, e.GetCount())
	b = binary.BigEndian.AppendUint32(b, uint32(e.GetDecision()))
	for _, s := range [...]string{
		e.GetRegion(), node, e.GetActor(), e.GetCredential(), e.GetAction(), e.GetTarget(), e.GetReason(), e.GetPolicy(),
		e.GetAddress(), e.GetTraceId(),
	} {
		b = appendText(b, s)
	}
	if id := e.GetRequestId(); id != "" { // entries of before there were any have nothing here, and their hashes stay what they are
		b = appendText(b, id)
	}
	return b
}

func appendText(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

// TimeOf returns an entry's time in nanoseconds since 1970.
func TimeOf(e *authv1.AuditEntry) int64 { return e.GetTime().AsTime().UnixNano() }
