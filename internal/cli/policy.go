package cli

import (
	"strings"
	"time"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"

	authv1 "github.com/nearside-dev/nearside/gen/nearside/auth/v1"
)

// maxPolicyFile is how large a file with a policy or a test may be.
const maxPolicyFile = 1 << 20

func (app *App) policyCommand() *cobra.Command {
	var to target
	cmd := &cobra.Command{
		Use:   "policy",
		Short: "Keep and try out policies: what callers may do beside their roles",
		RunE:  missingCommand,
	}
	to.register(cmd)
	cmd.AddCommand(
		app.policyPutCommand(&to), app.policyListCommand(&to), app.policyShowCommand(&to), app.policyDeleteCommand(&to),
		app.policyTestCommand(&to), app.policyExplainCommand(&to), app.policySchemaCommand(&to),
	)
	return cmd
}

// policyJSON is a policy as programs read it.
type policyJSON struct {
	Name      string `json:"name"`
	Text      string `json:"text"`
	UpdatedAt string `json:"updatedAt"` // RFC 3339
	UpdatedBy string `json:"updatedBy"`
}

func policyJSONOf(p *authv1.Policy) policyJSON {
	return policyJSON{
		Name: p.GetName(), Text: p.GetText(), UpdatedAt: p.GetUpdateTime().AsTime().Format(time.RFC3339), UpdatedBy: p.GetUpdatedBy(),
	}
}

func (app *App) policyPutCommand(to *target) *cobra.Command {
	return &cobra.Command{
		Use:   "put NAME FILE",
		Short: "Write a policy from a file, - is standard input",
		Long: `Write a policy from a file, in place of one of its name; - is standard input. It is one statement of
Cedar, and checked before it is written. It decides in each region from its next commit on.`,
		Args: cobra.ExactArgs(2),
		RunE: app.Run(func(cmd *cobra.Command, args []string) error {
			text, err := app.readFile(args[1], maxPolicyFile)
			if err != nil {
				return err
			}
			if err := to.connect(cmd); err != nil {
				return err
			}
			res, err := to.policies.PutPolicy(cmd.Context(), connect.NewRequest(&authv1.PutPolicyRequest{
				Policy: &authv1.Policy{Name: args[0], Text: string(text)},
			}))
			if err != nil {
				return err
			}
			if app.JSON {
				return app.WriteJSON(struct {
					policyJSON

					Replaced bool `json:"replaced"`
				}{policyJSONOf(res.Msg.GetPolicy()), res.Msg.GetReplaced()})
			}
			done := "written"
			if res.Msg.GetReplaced() {
				done = "replaced"
			}
			app.printf(app.Stdout, "policy %s is %s\n", args[0], done)
			return nil
		}),
	}
}

func (app *App) policyListCommand(to *target) *cobra.Command {
	var format *string
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List the policies",
		Args:  cobra.NoArgs,
		RunE: app.Run(func(cmd *cobra.Command, _ []string) error {
			if err := to.connect(cmd); err != nil {
				return err
			}
			if err := app.chooseFormat(cmd, format, listFormats); err != nil {
				return err
			}
			res, err := to.policies.ListPolicies(cmd.Context(), connect.NewRequest(&authv1.ListPoliciesRequest{}))
			if err != nil {
				return err
			}
			policies := []policyJSON{}
			var rows [][]string
			for _, p := range res.Msg.GetPolicies() {
				j := policyJSONOf(p)
				policies = append(policies, j)
				rows = append(rows, []string{j.Name, strings.Join(strings.Fields(j.Text), " "), j.UpdatedAt, j.UpdatedBy})
			}
			if app.JSON {
				return app.WriteJSON(map[string]any{"policies": policies, "version": res.Msg.GetVersion()})
			}
			return app.writeList(*format, []string{"name", "policy", "updated", "by"}, rows, nil)
		}),
	}
	format = listFormat(cmd)
	return cmd
}

func (app *App) policyShowCommand(to *target) *cobra.Command {
	return &cobra.Command{
		Use:   "show NAME",
		Short: "Show a policy's text",
		Args:  cobra.ExactArgs(1),
		RunE: app.Run(func(cmd *cobra.Command, args []string) error {
			if err := to.connect(cmd); err != nil {
				return err
			}
			res, err := to.policies.GetPolicy(cmd.Context(), connect.NewRequest(&authv1.GetPolicyRequest{Name: args[0]}))
			if err != nil {
				return err
			}
			if app.JSON {
				return app.WriteJSON(policyJSONOf(res.Msg.GetPolicy()))
			}
			app.printf(app.Stdout, "%s\n", strings.TrimRight(res.Msg.GetPolicy().GetText(), "\n"))
			return nil
		}),
	}
}

func (app *App) policyDeleteCommand(to *target) *cobra.Command {
	return &cobra.Command{
		Use:   "delete NAME",
		Short: "Delete a policy",
		Args:  cobra.ExactArgs(1),
		RunE: app.Run(func(cmd *cobra.Command, args []string) error {
			if err := to.connect(cmd); err != nil {
				return err
			}
			_, err := to.policies.DeletePolicy(cmd.Context(), connect.NewRequest(&authv1.DeletePolicyRequest{Name: args[0]}))
			return app.confirm(err, "policy %s is deleted", args[0])
		}),
	}
}

func (app *App) policySchemaCommand(to *target) *cobra.Command {
	return &cobra.Command{
		Use:   "schema",
		Short: "Show what policies may talk about, in Cedar's own words",
		Args:  cobra.NoArgs,
		RunE: app.Run(func(cmd *cobra.Command, _ []string) error {
			if err := to.connect(cmd); err != nil {
				return err
			}
			res, err := to.policies.GetPolicySchema(cmd.Context(), connect.NewRequest(&authv1.GetPolicySchemaRequest{}))
			if err != nil {
				return err
			}
			if app.JSON {
				return app.WriteJSON(map[string]string{"schema": res.Msg.GetSchema()})
			}
			app.printf(app.Stdout, "%s", res.Msg.GetSchema())
			return nil
		}),
	}
}

// decisionJSON is a decision as programs read it.
type decisionJSON struct {
	Allowed    bool          `json:"allowed"`
	Policy     string        `json:"policy"`
	Principal  string        `json:"principal"`
	Role       string        `json:"role"`
	Matching   []string      `json:"matching"`
	Errors     []string      `json:"errors"`
	Rows       []rowRuleJSON `json:"rows"`
	Restricted string        `json:"restricted,omitempty"`
}

type rowRuleJSON struct {
	Column string `json:"column"`
	Value  string `json:"value"`
}

func decisionJSONOf(d *authv1.PolicyDecision) decisionJSON {
	out := decisionJSON{
		Allowed: d.GetAllowed(), Policy: d.GetPolicy(), Principal: d.GetPrincipal(), Role: d.GetRole(),
		Matching: append([]string{}, d.GetMatching()...), Errors: append([]string{}, d.GetErrors()...), Rows: []rowRuleJSON{},
		Restricted: d.GetRestricted(),
	}
	for _, r := range d.GetRows() {
		out.Rows = append(out.Rows, rowRuleJSON{Column: r.GetColumn(), Value: r.GetValue()})
	}
	return out
}

func verdict(allowed bool) string {
	if allowed {
		return "allow"
	}
	return "deny"
}

func (app *App) policyExplainCommand(to *target) *cobra.Command {
	return &cobra.Command{
		Use:   "explain ACCOUNT ACTION [DATABASE[/TABLE]]",
		Short: "Say whether an account may do something, and why",
		Long: `Say whether an account may do something, and why. The action is a procedure, such as
/nearside.data.v1.DataService/Query, or read, write or own. The account Anonymous, if none has that name, is
whoever calls a public service without a credential.`,
		Example: `  nearside policy explain ann read shop/secrets
  nearside policy explain Anonymous /acme.echo.v1.EchoService/Stream
  nearside policy explain billing /nearside.data.v1.DataService/Query shop`,
		Args: cobra.RangeArgs(2, 3),
		RunE: app.Run(func(cmd *cobra.Command, args []string) error {
			q := &authv1.PolicyQuestion{Account: args[0], Action: args[1]}
			if len(args) > 2 {
				q.Database, q.Table, _ = strings.Cut(args[2], "/")
			}
			if err := to.connect(cmd); err != nil {
				return err
			}
			res, err := to.policies.ExplainPolicy(cmd.Context(), connect.NewRequest(&authv1.ExplainPolicyRequest{Question: q}))
			if err != nil {
				return err
			}
			d := decisionJSONOf(res.Msg.GetDecision())
			if app.JSON {
				return app.WriteJSON(struct {
					decisionJSON

					Version string `json:"version"`
				}{d, res.Msg.GetVersion()})
			}
			app.printf(app.Stdout, "%s: %s by %s\n", d.Principal, verdict(d.Allowed), d.Policy)
			app.printf(app.Stdout, "roles alone: %s\n", d.Role)
			for _, r := range d.Rows {
				app.printf(app.Stdout, "rows: %s = %s\n", r.Column, r.Value)
			}
			if d.Restricted != "" {
				app.printf(app.Stdout, "restricted in %s: %s\n", q.GetDatabase(), d.Restricted)
			}
			for _, p := range d.Matching {
				app.printf(app.Stdout, "matches: %s\n", p)
			}
			for _, e := range d.Errors {
				app.printf(app.Stdout, "error: %s\n", e)
			}
			return nil
		}),
	}
}
