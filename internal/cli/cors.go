package cli

import (
	"strings"
	"time"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/durationpb"

	controlv1 "github.com/nearside-dev/nearside/gen/nearside/control/v1"
	"github.com/nearside-dev/nearside/internal/cors"
)

func (app *App) corsCommand() *cobra.Command {
	var to target
	cmd := &cobra.Command{
		Use:   "cors",
		Short: "Say which web pages may read what gateways answer",
		RunE:  missingCommand,
	}
	to.register(cmd)
	show := &cobra.Command{
		Use:   "show",
		Short: "Show the policy",
		Args:  cobra.NoArgs,
		RunE: app.Run(func(cmd *cobra.Command, _ []string) error {
			if err := to.connect(cmd); err != nil {
				return err
			}
			res, err := to.cors.GetCorsPolicy(cmd.Context(), connect.NewRequest(&controlv1.GetCorsPolicyRequest{}))
			if err != nil {
				return err
			}
			return app.showCORS(res.Msg.GetPolicy())
		}),
	}
	forget := &cobra.Command{
		Use:   "clear",
		Short: "Let no page of another origin read anything",
		Args:  cobra.NoArgs,
		RunE: app.Run(func(cmd *cobra.Command, _ []string) error {
			if err := to.connect(cmd); err != nil {
				return err
			}
			_, err := to.cors.ClearCorsPolicy(cmd.Context(), connect.NewRequest(&controlv1.ClearCorsPolicyRequest{}))
			if err != nil {
				return err
			}
			return app.showCORS(nil)
		}),
	}
	cmd.AddCommand(app.corsSetCommand(&to), show, forget)
	return cmd
}

func (app *App) corsSetCommand(to *target) *cobra.Command {
	p := &controlv1.CorsPolicy{}
	var maxAge time.Duration
	cmd := &cobra.Command{
		Use:   "set --origin ORIGIN",
		Short: "Let pages of other origins read answers, in place of the policy before",
		Long: `Let pages of other origins read what gateways answer, in place of the policy before. An origin
is https://app.example.org, https://*.example.org for all below it, or * for each. Pages that
gateways of the mesh serve themselves may call the others without it.`,
		Example: "  nearside cors set --origin https://app.example.org --origin http://localhost:5173",
		Args:    cobra.NoArgs,
		RunE: app.Run(func(cmd *cobra.Command, _ []string) error {
			p.MaxAge = durationpb.New(maxAge)
			if err := to.connect(cmd); err != nil {
				return err
			}
			res, err := to.cors.SetCorsPolicy(cmd.Context(), connect.NewRequest(&controlv1.SetCorsPolicyRequest{Policy: p}))
			if err != nil {
				return err
			}
			return app.showCORS(res.Msg.GetPolicy())
		}),
	}
	flags := cmd.Flags()
	flags.StringArrayVar(&p.Origins, "origin", nil, "origin of pages that may read answers; may be given several times")
	flags.BoolVar(&p.Credentials, "credentials", false, "let browsers send cookies and certificates too; not with a * in an origin")
	flags.StringArrayVar(&p.AllowHeaders, "allow-header", nil, "header that requests may have, besides the usual ones")
	flags.StringArrayVar(&p.ExposeHeaders, "expose-header", nil, "header of answers that pages may read, besides the usual ones")
	flags.DurationVar(&maxAge, "max-age", cors.DefaultMaxAge, "how long browsers may keep what they were told")
	_ = cmd.MarkFlagRequired("origin") // it is there
	return cmd
}

// showCORS shows a policy; nil is none.
func (app *App) showCORS(p *controlv1.CorsPolicy) error {
	if app.JSON {
		type policyJSON struct {
			Origins       []string `json:"origins"`
			Credentials   bool     `json:"credentials"`
			AllowHeaders  []string `json:"allowHeaders"`
			ExposeHeaders []string `json:"exposeHeaders"`
			MaxAgeSeconds int64    `json:"maxAgeSeconds"`
		}
		if p == nil {
			return app.WriteJSON(map[string]*policyJSON{"policy": nil})
		}
		return app.WriteJSON(map[string]*policyJSON{"policy": {
			Origins: orEmpty(p.GetOrigins()), Credentials: p.GetCredentials(), AllowHeaders: orEmpty(p.GetAllowHeaders()),
			ExposeHeaders: orEmpty(p.GetExposeHeaders()), MaxAgeSeconds: p.GetMaxAge().GetSeconds(),
		}})
	}
	if p == nil {
		app.printf(app.Stdout, "no page of another origin may read answers\n")
		return nil
	}
	app.printf(app.Stdout, "origins: %s\n", strings.Join(p.GetOrigins(), " "))
	if p.GetCredentials() {
		app.printf(app.Stdout, "credentials: yes\n")
	}
	if h := p.GetAllowHeaders(); len(h) > 0 {
		app.printf(app.Stdout, "headers of requests besides: %s\n", strings.Join(h, " "))
	}
	if h := p.GetExposeHeaders(); len(h) > 0 {
		app.printf(app.Stdout, "headers of answers besides: %s\n", strings.Join(h, " "))
	}
	app.printf(app.Stdout, "kept for: %s\n", p.GetMaxAge().AsDuration())
	return nil
}

func orEmpty(list []string) []string {
	if list == nil {
		return []string{}
	}
	return list
}
