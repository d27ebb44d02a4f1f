package cli

import (
	"fmt"
	"strconv"
	"strings"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"

	controlv1 "github.com/nearside-dev/nearside/gen/nearside/control/v1"
	"github.com/nearside-dev/nearside/internal/cli/render"
	"github.com/nearside-dev/nearside/internal/config"
	"github.com/nearside-dev/nearside/internal/verify"
)

// verifyJSON is the answer of verify as programs read it.
type verifyJSON struct {
	Equal   bool           `json:"equal"`
	Results []verifiedJSON `json:"results"`
}

// verifiedJSON is what was found in one node's data of one database.
type verifiedJSON struct {
	Region   string        `json:"region"`
	Primary  bool          `json:"primary"`
	Database string        `json:"database"`
	Version  uint64        `json:"version"`
	Tables   uint64        `json:"tables"`
	Rows     uint64        `json:"rows"`
	Findings []findingJSON `json:"findings"`
	Error    string        `json:"error,omitempty"`
	Repair   bool          `json:"repair"`
}

// findingJSON is one kind of difference in one table.
type findingJSON struct {
	Kind   string   `json:"kind"`
	Table  string   `json:"table,omitempty"`
	Index  string   `json:"index,omitempty"`
	Count  uint64   `json:"count"`
	Keys   []string `json:"keys"`
	Detail string   `json:"detail,omitempty"`
}

func (app *App) verifyCommand() *cobra.Command {
	var to target
	req := &controlv1.VerifyRequest{}
	cmd := &cobra.Command{
		Use:   "verify",
		Short: "Compare the regions' copies with the primary, while all go on",
		Long: `Compare the regions' copies with the primary, while all go on serving and writing.

Without --deep the rows of each copy are counted and added up, and the sums compared
with those of the primary's log; the primary's own rows are too. With --deep every key,
value and row version is compared, index entries with their rows, and the log with its
checksums. A copy that differs is reported and repaired.

The exit code is 1 if anything differs or could not be compared.`,
		Args: cobra.NoArgs,
		RunE: app.Run(func(cmd *cobra.Command, _ []string) error {
			if err := to.connect(cmd); err != nil {
				return err
			}
			response, err := to.verify.Verify(cmd.Context(), connect.NewRequest(req))
			if err != nil {
				return err
			}
			return app.showVerified(response.Msg.GetResults())
		}),
	}
	to.register(cmd)
	config.NewSet(cmd.Flags()).String(&req.Database, "db", "the database; default all")
	cmd.Flags().StringSliceVar(&req.Regions, "region", nil, "a region whose copies to compare; repeat for more (default all)")
	cmd.Flags().BoolVar(&req.Deep, "deep", false, "compare row by row")
	return cmd
}

// showVerified writes the results; its error says that not all are equal.
func (app *App) showVerified(results []*controlv1.VerifyResult) error {
	different, failed := 0, 0
	for _, r := range results {
		switch {
		case len(r.GetFindings()) > 0:
			different++
		case r.GetError() != "":
			failed++
		}
	}
	show := app.verifiedTables
	if app.JSON {
		show = func(results []*controlv1.VerifyResult) error {
			return app.WriteJSON(verifyJSON{Equal: different+failed == 0, Results: verifiedList(results)})
		}
	}
	if err := show(results); err != nil {
		return err
	}
	switch {
	case different > 0:
		return app.shown(fmt.Errorf("%d of %d differ", different, len(results)))
	case failed > 0:
		return app.shown(fmt.Errorf("%d of %d could not be compared", failed, len(results)))
	default:
		return nil
	}
}

// shown marks an error whose JSON is the answer that was written.
func (app *App) shown(err error) error {
	if app.JSON {
		return shownError{err}
	}
	return err
}

func verifiedList(results []*controlv1.VerifyResult) []verifiedJSON {
	list := make([]verifiedJSON, len(results))
	for i, r := range results {
		list[i] = verifiedJSON{
			Region: r.GetRegion(), Primary: r.GetPrimary(), Database: r.GetDatabase(), Version: r.GetVersion(),
			Tables: r.GetTables(), Rows: r.GetRows(), Error: r.GetError(), Repair: r.GetRepair(),
			Findings: make([]findingJSON, len(r.GetFindings())),
		}
		for j, f := range r.GetFindings() {
			list[i].Findings[j] = findingJSON{
				Kind: verify.KindName(f.GetKind()), Table: f.GetTable(), Index: f.GetIndex(), Count: f.GetCount(),
				Keys: append([]string{}, f.GetKeys()...), Detail: f.GetDetail(),
			}
		}
	}
	return list
}

func (app *App) verifiedTables(results []*controlv1.VerifyResult) error {
	var rows, findings [][]string
	for _, r := range results {
		role := "replica"
		if r.GetPrimary() {
			role = "primary"
		}
		state := "equal"
		switch {
		case r.GetRepair():
			state = "different, being repaired"
		case len(r.GetFindings()) > 0:
			state = "different"
		}
		if r.GetError() != "" {
			state = "not compared: " + r.GetError()
		}
		rows = append(rows, []string{
			r.GetRegion(), role, r.GetDatabase(), strconv.FormatUint(r.GetVersion(), 10),
			strconv.FormatUint(r.GetTables(), 10), strconv.FormatUint(r.GetRows(), 10), state,
		})
		for _, f := range r.GetFindings() {
			place := f.GetTable()
			if f.GetIndex() != "" {
				place += " " + f.GetIndex()
			}
			what := strings.Join(f.GetKeys(), "; ")
			if f.GetDetail() != "" {
				what = f.GetDetail()
			}
			findings = append(findings, []string{
				r.GetRegion(), role, r.GetDatabase(), place, verify.KindName(f.GetKind()),
				strconv.FormatUint(f.GetCount(), 10), what,
			})
		}
	}
	err := render.Table(app.Stdout, []string{"region", "role", "database", "version", "tables", "rows", "result"}, rows,
		[]bool{false, false, false, true, true, true})
	if err != nil || len(findings) == 0 {
		return err
	}
	app.printf(app.Stdout, "\n")
	return render.Table(app.Stdout, []string{"region", "role", "database", "table", "difference", "count", "keys"}, findings,
		[]bool{false, false, false, false, false, true})
}
