package cli

import (
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/timestamppb"

	authv1 "github.com/nearside-dev/nearside/gen/nearside/auth/v1"
	"github.com/nearside-dev/nearside/internal/audit"
)

func (app *App) auditCommand() *cobra.Command {
	var to target
	cmd := &cobra.Command{
		Use:   "audit",
		Short: "Show who did what, and check that nobody changed that",
		RunE:  missingCommand,
	}
	to.register(cmd)
	cmd.AddCommand(app.auditListCommand(&to), app.auditVerifyCommand(&to))
	return cmd
}

// auditFlags are what `audit list` is asked for.
type auditFlags struct {
	since, actor, action, decision, database string
	limit                                    uint32
	writes                                   bool
}

func (app *App) auditListCommand(to *target) *cobra.Command {
	var flags auditFlags
	var format *string
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List what was recorded, the latest first",
		Long: `List what was recorded, the latest first: log-ins and credentials, good and refused, what callers
were denied, and each change to accounts, keys, policies, nodes, services and databases.

With --writes, the commits of a database that its log still has, with who made them.`,
		Example: `  nearside audit list --since 24h --decision denied
  nearside audit list --actor user:u_1 --action AccountService
  nearside audit list --writes --db demo`,
		Args: cobra.NoArgs,
		RunE: app.Run(func(cmd *cobra.Command, _ []string) error {
			if err := to.connect(cmd); err != nil {
				return err
			}
			if err := app.chooseFormat(cmd, format, listFormats); err != nil {
				return err
			}
			if flags.limit == 0 || flags.limit > 1000 {
				return usagef("--limit %d: want from 1 to 1000", flags.limit)
			}
			if flags.writes {
				return app.listWrites(cmd, to, &flags, *format)
			}
			return app.listAudit(cmd, to, &flags, *format)
		}),
	}
	f := cmd.Flags()
	f.StringVar(&flags.since, "since", "", "from then on: a time (2026-01-31T12:00:00Z) or how long ago (24h)")
	f.StringVar(&flags.actor, "actor", "", "of somebody alone: user:ID, service:ID, node:ID")
	f.StringVar(&flags.action, "action", "", "of a method or a service alone: AccountService/GrantRole, AccountService, credential")
	f.StringVar(&flags.decision, "decision", "", "with a decision alone: allowed, refused, denied, failed or dropped")
	f.Uint32Var(&flags.limit, "limit", 100, "how many at most")
	f.BoolVar(&flags.writes, "writes", false, "the commits of a database instead")
	f.StringVar(&flags.database, "db", "demo", "the database, with --writes")
	to.completeDatabases(cmd)
	format = listFormat(cmd)
	return cmd
}

// auditJSON is an entry as programs read it.
type auditJSON struct {
	Sequence   uint64 `json:"sequence"`
	Time       string `json:"time"` // RFC 3339
	Actor      string `json:"actor"`
	Credential string `json:"credential,omitempty"`
	Action     string `json:"action"`
	Target     string `json:"target,omitempty"`
	Decision   string `json:"decision"`
	Reason     string `json:"reason,omitempty"`
	Policy     string `json:"policy,omitempty"`
	Address    string `json:"address,omitempty"`
	Region     string `json:"region"`
	Node       string `json:"node,omitempty"`
	TraceID    string `json:"traceId,omitempty"`
	RequestID  string `json:"requestId,omitempty"`
	Count      uint64 `json:"count"`
	Hash       string `json:"hash"` // hexadecimal
}

func (app *App) listAudit(cmd *cobra.Command, to *target, flags *auditFlags, format string) error {
	req := &authv1.ListEntriesRequest{Actor: flags.actor, Action: flags.action, PageSize: flags.limit}
	var err error
	if req.Since, err = sinceOf(flags.since); err != nil {
		return err
	}
	if req.Decision, err = decisionOf(flags.decision); err != nil {
		return err
	}
	res, err := to.audit.ListEntries(cmd.Context(), connect.NewRequest(req))
	if err != nil {
		return err
	}
	if app.JSON {
		entries := make([]auditJSON, len(res.Msg.GetEntries()))
		for i, c := range res.Msg.GetEntries() {
			e := c.GetEntry()
			entries[i] = auditJSON{
				Sequence: c.GetSequence(), Time: e.GetTime().AsTime().Format(time.RFC3339Nano), Actor: e.GetActor(),
				Credential: e.GetCredential(), Action: e.GetAction(), Target: e.GetTarget(), Decision: audit.Name(e.GetDecision()),
				Reason: e.GetReason(), Policy: e.GetPolicy(), Address: e.GetAddress(), Region: e.GetRegion(), Node: e.GetNode(),
				TraceID: e.GetTraceId(), RequestID: e.GetRequestId(), Count: e.GetCount(), Hash: hex.EncodeToString(c.GetHash()),
			}
		}
		return app.WriteJSON(map[string][]auditJSON{"entries": entries})
	}
	rows := make([][]string, len(res.Msg.GetEntries()))
	for i, c := range res.Msg.GetEntries() {
		e := c.GetEntry()
		rows[i] = []string{
			strconv.FormatUint(c.GetSequence(), 10), e.GetTime().AsTime().Local().Format(time.DateTime), e.GetActor(), e.GetAction(),
			e.GetTarget(), audit.Name(e.GetDecision()), e.GetReason(), e.GetAddress(), e.GetRegion(), strconv.FormatUint(e.GetCount(), 10),
		}
	}
	return app.writeList(format, []string{
		"entry", "time", "actor", "action", "target", "decision", "reason", "address", "region", "count",
	}, rows, []bool{true, false, false, false, false, false, false, false, false, true})
}

// writeJSON is a commit as programs read it.
type writeJSON struct {
	Version uint64            `json:"version"`
	Time    string            `json:"time"` // RFC 3339
	Actor   string            `json:"actor"`
	Address string            `json:"address,omitempty"`
	TraceID string            `json:"traceId,omitempty"`
	Schema  bool              `json:"schema"`
	Tables  map[string]uint64 `json:"tables"` // rows that were written or deleted
}

func (app *App) listWrites(cmd *cobra.Command, to *target, flags *auditFlags, format string) error {
	if flags.since != "" || flags.action != "" || flags.decision != "" {
		return usagef("--since, --action and --decision do not go with --writes")
	}
	res, err := to.audit.ListWrites(cmd.Context(), connect.NewRequest(&authv1.ListWritesRequest{
		Database: flags.database, Actor: flags.actor, PageSize: flags.limit,
	}))
	if err != nil {
		return err
	}
	if app.JSON {
		writes := make([]writeJSON, len(res.Msg.GetWrites()))
		for i, w := range res.Msg.GetWrites() {
			writes[i] = writeJSON{
				Version: w.GetVersion(), Time: w.GetTime().AsTime().Format(time.RFC3339Nano), Actor: w.GetActor(),
				Address: w.GetAddress(), TraceID: w.GetTraceId(), Schema: w.GetSchema(), Tables: make(map[string]uint64),
			}
			for _, t := range w.GetTables() {
				writes[i].Tables[t.GetName()] += t.GetRows()
			}
		}
		return app.WriteJSON(map[string][]writeJSON{"writes": writes})
	}
	rows := make([][]string, len(res.Msg.GetWrites()))
	for i, w := range res.Msg.GetWrites() {
		var what []string
		if w.GetSchema() {
			what = append(what, "schema")
		}
		for _, t := range w.GetTables() {
			what = append(what, fmt.Sprintf("%s:%d", t.GetName(), t.GetRows()))
		}
		rows[i] = []string{
			strconv.FormatUint(w.GetVersion(), 10), w.GetTime().AsTime().Local().Format(time.DateTime), w.GetActor(),
			strings.Join(what, " "), w.GetAddress(), w.GetTraceId(),
		}
	}
	return app.writeList(format, []string{"version", "time", "actor", "changed", "address", "trace"}, rows, []bool{true, false, false, false, false, false})
}

// sinceOf reads a time, or how long ago it is.
func sinceOf(s string) (*timestamppb.Timestamp, error) {
	if s == "" {
		return nil, nil //nolint:nilnil // from the beginning
	}
	if d, err := time.ParseDuration(s); err == nil && d >= 0 {
		return timestamppb.New(time.Now().Add(-d)), nil
	}
	t, err := time.Parse(time.RFC3339, s)
	if err != nil {
		return nil, usagef("--since %q: want a time like 2026-01-31T12:00:00Z, or how long ago, like 24h", s)
	}
	return timestamppb.New(t), nil
}

func decisionOf(s string) (authv1.AuditDecision, error) {
	if s == "" {
		return authv1.AuditDecision_AUDIT_DECISION_UNSPECIFIED, nil
	}
	for n := range authv1.AuditDecision_name {
		if d := authv1.AuditDecision(n); n != 0 && audit.Name(d) == s {
			return d, nil
		}
	}
	return 0, usagef("--decision %q: want allowed, refused, denied, failed or dropped", s)
}

var errTampered = errors.New("the audit is not what was recorded")

func (app *App) auditVerifyCommand(to *target) *cobra.Command {
	var known string
	cmd := &cobra.Command{
		Use:   "verify",
		Short: "Find entries that were removed, changed or put elsewhere",
		Long: `Find entries that were removed, changed or put elsewhere since they were recorded. It prints the
number of the last entry and its hash: who keeps them where nobody from here can change them, and
gives them back with --known, finds out too if all was made anew.`,
		Example: "  nearside audit verify --known 1042:5f2b…",
		Args:    cobra.NoArgs,
		RunE: app.Run(func(cmd *cobra.Command, _ []string) error {
			req := &authv1.VerifyEntriesRequest{}
			if known != "" {
				number, hash, _ := strings.Cut(known, ":")
				var err1, err2 error
				req.KnownSequence, err1 = strconv.ParseUint(number, 10, 63)
				req.KnownHash, err2 = hex.DecodeString(hash)
				if err1 != nil || err2 != nil || req.KnownSequence == 0 || len(req.KnownHash) != len(audit.Hash{}) {
					return usagef("--known %q: want NUMBER:HASH as this command has printed it", known)
				}
			}
			if err := to.connect(cmd); err != nil {
				return err
			}
			res, err := to.audit.VerifyEntries(cmd.Context(), connect.NewRequest(req))
			if err != nil {
				return err
			}
			m := res.Msg
			last := fmt.Sprintf("%d:%x", m.GetLastSequence(), m.GetLastHash())
			if app.JSON {
				problems := []map[string]any{}
				for _, p := range m.GetProblems() {
					problems = append(problems, map[string]any{"entry": p.GetSequence(), "message": p.GetMessage()})
				}
				err = app.WriteJSON(map[string]any{
					"entries": m.GetEntries(), "first": m.GetFirstSequence(), "last": last, "problems": problems,
				})
			} else {
				for _, p := range m.GetProblems() {
					app.printf(app.Stdout, "%s\n", p.GetMessage())
				}
				app.printf(app.Stdout, "%d entries, the last is %s\n", m.GetEntries(), last)
			}
			if err == nil && len(m.GetProblems()) > 0 {
				err = errTampered
			}
			return err
		}),
	}
	cmd.Flags().StringVar(&known, "known", "", "NUMBER:HASH of an entry, as it was printed before")
	return cmd
}
