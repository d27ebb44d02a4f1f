package audit

import (
	"context"
	"net/netip"
	"strings"
	"time"
	"unicode/utf8"

	"google.golang.org/protobuf/types/known/timestamppb"

	authv1 "github.com/nearside-dev/nearside/gen/nearside/auth/v1"
	"github.com/nearside-dev/nearside/internal/identity"
	"github.com/nearside-dev/nearside/internal/requestid"
	"github.com/nearside-dev/nearside/internal/rpcerr"
)

// The decisions, in short.
const (
	Allowed = authv1.AuditDecision_AUDIT_DECISION_ALLOWED
	Refused = authv1.AuditDecision_AUDIT_DECISION_REFUSED
	Denied  = authv1.AuditDecision_AUDIT_DECISION_DENIED
	Failed  = authv1.AuditDecision_AUDIT_DECISION_FAILED
	Dropped = authv1.AuditDecision_AUDIT_DECISION_DROPPED
)

// ActionCredential is the action of a credential that was seen for the first time, or was no good.
const ActionCredential = "credential"

// maxText bounds each text of an entry: callers choose some of them.
const maxText = 256

// Entry is what is recorded. Its texts must be none of a caller's secrets.
type Entry struct {
	Time       time.Time // default now
	Region     string    // default the recorder's
	Actor      string
	Credential string
	Action     string
	Target     string
	Decision   authv1.AuditDecision
	Reason     string
	Policy     string
	Address    string
	TraceID    string
	RequestID  string
}

// Proto returns the entry as it is kept, for something that happened so many times.
func (e *Entry) Proto(node string, count uint64) *authv1.AuditEntry {
	return &authv1.AuditEntry{
		Time: timestamppb.New(e.Time), Region: clean(e.Region), Node: clean(node), Actor: clean(e.Actor), Credential: clean(e.Credential),
		Action: clean(e.Action), Target: clean(e.Target), Decision: e.Decision, Reason: clean(e.Reason), Policy: clean(e.Policy),
		Address: clean(e.Address), TraceId: clean(e.TraceID), RequestId: clean(e.RequestID), Count: count,
	}
}

// clean returns a text that is valid, not long, and of one line.
func clean(s string) string {
	s = strings.ToValidUTF8(s, "?")
	if len(s) > maxText {
		s = s[:maxText]
		for !utf8.ValidString(s) {
			s = s[:len(s)-1]
		}
	}
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, s)
}

// Action returns the action of a procedure: /nearside.auth.v1.AccountService/GrantRole is AccountService/GrantRole. One of others
// keeps its whole name.
func Action(procedure string) string {
	name := strings.TrimPrefix(procedure, "/")
	if !strings.HasPrefix(name, "nearside.") {
		return name
	}
	service, method, _ := strings.Cut(name, "/")
	return service[strings.LastIndexByte(service, '.')+1:] + "/" + method
}

// Address returns an address without its port.
func Address(remote string) string {
	if a, err := netip.ParseAddrPort(remote); err == nil {
		return a.Addr().Unmap().WithZone("").String()
	}
	return remote
}

// Of fills in which request it is about.
func (e *Entry) Of(ctx context.Context) {
	id := requestid.From(ctx)
	e.TraceID, e.RequestID = id.Trace(), id.String()
}

// TraceIDOf returns the trace of a W3C trace context, or "".
func TraceIDOf(parent string) string {
	const from, to = 3, 35 // after the version
	if len(parent) < 55 || parent[2] != '-' || parent[to] != '-' {
		return ""
	}
	id := parent[from:to]
	for _, c := range []byte(id) {
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return ""
		}
	}
	return id
}

// Reason returns how an error is named.
func Reason(err error) string {
	if err == nil {
		return ""
	}
	return strings.TrimPrefix(rpcerr.ReasonOf(err).String(), "ERROR_REASON_")
}

// Note is what a handler knows about its call that its message does not say, or that must not be taken from there.
type Note struct {
	Actor  string
	Target string
	Reason string
}

type noteKey struct{}

// WithNote returns a context whose handler may write a note.
func WithNote(ctx context.Context) (context.Context, *Note) {
	n := &Note{}
	return context.WithValue(ctx, noteKey{}, n), n
}

// NoteOf returns the note of a call, or one that nobody reads.
func NoteOf(ctx context.Context) *Note {
	if n, ok := ctx.Value(noteKey{}).(*Note); ok {
		return n
	}
	return &Note{}
}

// By fills in who the caller is.
func (e *Entry) By(p *identity.Principal) {
	e.Actor, e.Credential = p.Actor(), p.Credential
}
