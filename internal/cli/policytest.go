package cli

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v3"

	authv1 "github.com/nearside-dev/nearside/gen/nearside/auth/v1"
)

// policyTest is a file of policy test.
type policyTest struct {
	// Policies are taken as written, by name, and Without as deleted.
	Policies map[string]string `yaml:"policies"`
	Without  []string          `yaml:"without"`
	Cases    []policyCase      `yaml:"cases"`
}

// policyCase is a question and its answer.
type policyCase struct {
	Account  string `yaml:"account"`
	Action   string `yaml:"action"`
	Resource string `yaml:"resource"` // DATABASE, DATABASE/TABLE or nothing
	Expect   string `yaml:"expect"`   // allow or deny
	Policy   string `yaml:"policy"`   // that is to decide; nothing is any
}

// readPolicyTest reads a file of policy test. Errors name what they are of.
func readPolicyTest(text []byte) (*policyTest, error) {
	t := &policyTest{}
	d := yaml.NewDecoder(bytes.NewReader(text))
	d.KnownFields(true)
	if err := d.Decode(t); err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	if len(t.Cases) == 0 {
		return nil, errors.New("cases: there are none")
	}
	for i, c := range t.Cases {
		switch {
		case c.Account == "":
			return nil, fmt.Errorf("cases[%d].account: is required", i)
		case c.Action == "":
			return nil, fmt.Errorf("cases[%d].action: is required", i)
		case c.Expect != "allow" && c.Expect != "deny":
			return nil, fmt.Errorf("cases[%d].expect: want allow or deny", i)
		}
	}
	return t, nil
}

func (t *policyTest) request() *authv1.TestPoliciesRequest {
	req := &authv1.TestPoliciesRequest{Without: t.Without}
	for name, text := range t.Policies {
		req.Policies = append(req.Policies, &authv1.Policy{Name: name, Text: text})
	}
	slices.SortFunc(req.Policies, func(a, b *authv1.Policy) int { return strings.Compare(a.GetName(), b.GetName()) })
	for _, c := range t.Cases {
		q := &authv1.PolicyQuestion{Account: c.Account, Action: c.Action}
		q.Database, q.Table, _ = strings.Cut(c.Resource, "/")
		req.Questions = append(req.Questions, q)
	}
	return req
}

// resultJSON is a case's result as programs read it.
type resultJSON struct {
	Account  string       `json:"account"`
	Action   string       `json:"action"`
	Resource string       `json:"resource,omitempty"`
	Expect   string       `json:"expect"`
	Passed   bool         `json:"passed"`
	Decision decisionJSON `json:"decision"`
}

func (app *App) policyTestCommand(to *target) *cobra.Command {
	return &cobra.Command{
		Use:   "test FILE",
		Short: "Ask what policies would say, and compare it with what they should",
		Long: `Ask what policies would say, and compare it with what they should. Nothing is written. The file is
YAML, - is standard input:

  policies:                      # taken as written, beside those that there are
    no-secrets: |
      forbid (principal, action, resource == Table::"shop/secrets");
  without: [old-rule]            # taken as deleted
  cases:
    - {account: ann, action: read, resource: shop/secrets, expect: deny, policy: no-secrets}

It fails if any case does.`,
		Args: cobra.ExactArgs(1),
		RunE: app.Run(func(cmd *cobra.Command, args []string) error {
			text, err := app.readFile(args[0], maxPolicyFile)
			if err != nil {
				return err
			}
			t, err := readPolicyTest(text)
			if err != nil {
				return fmt.Errorf("%s: %w", args[0], err)
			}
			if err := to.connect(cmd); err != nil {
				return err
			}
			res, err := to.policies.TestPolicies(cmd.Context(), connect.NewRequest(t.request()))
			if err != nil {
				return err
			}
			if len(res.Msg.GetDecisions()) != len(t.Cases) {
				return fmt.Errorf("got %d decisions for %d cases", len(res.Msg.GetDecisions()), len(t.Cases))
			}
			results, failed := make([]resultJSON, len(t.Cases)), 0
			for i, c := range t.Cases {
				d := decisionJSONOf(res.Msg.GetDecisions()[i])
				passed := verdict(d.Allowed) == c.Expect &&
					(c.Policy == "" || c.Policy == d.Policy || "policy:"+c.Policy == d.Policy)
				if !passed {
					failed++
				}
				results[i] = resultJSON{c.Account, c.Action, c.Resource, c.Expect, passed, d}
			}
			return app.showPolicyTest(results, failed)
		}),
	}
}

func (app *App) showPolicyTest(results []resultJSON, failed int) error {
	if app.JSON {
		if err := app.WriteJSON(map[string]any{"passed": len(results) - failed, "failed": failed, "cases": results}); err != nil {
			return err
		}
	} else {
		for _, r := range results {
			mark := "ok  "
			if !r.Passed {
				mark = "FAIL"
			}
			app.printf(app.Stdout, "%s %s %s %s: %s by %s\n", mark, r.Account, r.Action, r.Resource, verdict(r.Decision.Allowed),
				r.Decision.Policy)
		}
	}
	if failed > 0 {
		return fmt.Errorf("%d of %d cases failed", failed, len(results))
	}
	return nil
}
