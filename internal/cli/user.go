package cli

import (
	"fmt"
	"strings"
	"time"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/durationpb"

	authv1 "github.com/nearside-dev/nearside/gen/nearside/auth/v1"
)

func (app *App) userCommand() *cobra.Command {
	var to target
	cmd := &cobra.Command{
		Use:   "user",
		Short: "Keep accounts, what they may do, and their API keys",
		RunE:  missingCommand,
	}
	to.register(cmd)
	cmd.AddCommand(
		app.userCreateCommand(&to), app.userListCommand(&to), app.userDisableCommand(&to, true), app.userDisableCommand(&to, false),
		app.userGrantCommand(&to, true), app.userGrantCommand(&to, false), app.userKeyCommand(&to), app.userKeysCommand(&to),
		app.userTenantCommand(&to), app.userRotateKeyCommand(&to), app.userRevokeKeyCommand(&to), app.userRotateSigningKeyCommand(&to),
		app.userResetCommand(&to), app.userLogoutCommand(&to),
	)
	return cmd
}

// accountJSON is an account as programs read it.
type accountJSON struct {
	ID       string   `json:"id"`
	Kind     string   `json:"kind"` // user or service
	Name     string   `json:"name"`
	Disabled bool     `json:"disabled"`
	Roles    []string `json:"roles"` // admin, or reader, writer or owner, ':' and a database
	Tenant   string   `json:"tenant,omitempty"`
}

func accountJSONOf(a *authv1.Account) accountJSON {
	out := accountJSON{
		ID: a.GetId(), Kind: strings.ToLower(strings.TrimPrefix(a.GetKind().String(), "ACCOUNT_KIND_")), Name: a.GetName(),
		Disabled: a.GetDisabled(), Roles: []string{}, Tenant: a.GetTenant(),
	}
	for _, g := range a.GetGrants() {
		role := strings.ToLower(strings.TrimPrefix(g.GetRole().String(), "ROLE_"))
		if g.GetDatabase() != "" {
			role += ":" + g.GetDatabase()
		}
		out.Roles = append(out.Roles, role)
	}
	return out
}

// parseGrant reads admin, or reader:DB, writer:DB, owner:DB.
func parseGrant(text string) (*authv1.Grant, error) {
	name, database, _ := strings.Cut(text, ":")
	role, ok := authv1.Role_value["ROLE_"+strings.ToUpper(name)]
	if !ok || role == 0 || (database == "") != (name == "admin") {
		return nil, usagef("role %q: want admin, or reader:DB, writer:DB or owner:DB", text)
	}
	return &authv1.Grant{Role: authv1.Role(role), Database: database}, nil
}

func (app *App) showAccount(a *authv1.Account) error {
	j := accountJSONOf(a)
	if app.JSON {
		return app.WriteJSON(j)
	}
	state := ""
	if j.Disabled {
		state = ", disabled"
	}
	if j.Tenant != "" {
		state = ", of " + j.Tenant + state
	}
	app.printf(app.Stdout, "%s %s (%s%s): %s\n", j.Kind, j.Name, j.ID, state, strings.Join(j.Roles, ", "))
	return nil
}

func (app *App) userCreateCommand(to *target) *cobra.Command {
	var service, noPassword bool
	var roles []string
	cmd := &cobra.Command{
		Use:   "create NAME",
		Short: "Make a user, whose password is the first line of standard input, or a service account",
		Args:  cobra.ExactArgs(1),
		RunE: app.Run(func(cmd *cobra.Command, args []string) error {
			req := &authv1.CreateAccountRequest{Kind: authv1.AccountKind_ACCOUNT_KIND_USER, Name: args[0]}
			if service {
				req.Kind = authv1.AccountKind_ACCOUNT_KIND_SERVICE
			}
			for _, r := range roles {
				g, err := parseGrant(r)
				if err != nil {
					return err
				}
				req.Grants = append(req.Grants, g)
			}
			if !service && !noPassword {
				password, err := app.readPassword("Password of " + args[0])
				if err != nil {
					return err
				}
				req.Password = password
			}
			if err := to.connect(cmd); err != nil {
				return err
			}
			res, err := to.accounts.CreateAccount(cmd.Context(), connect.NewRequest(req))
			if err != nil {
				return err
			}
			return app.showAccount(res.Msg.GetAccount())
		}),
	}
	cmd.Flags().BoolVar(&service, "service", false, "make a service account, which has API keys and no password")
	cmd.Flags().BoolVar(&noPassword, "no-password", false, "a user without a password, who needs a reset token first")
	cmd.Flags().StringSliceVar(&roles, "role", nil, "what it may do: admin, reader:DB, writer:DB or owner:DB; repeat for more")
	return cmd
}

func (app *App) userListCommand(to *target) *cobra.Command {
	var format *string
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List the accounts",
		Args:  cobra.NoArgs,
		RunE: app.Run(func(cmd *cobra.Command, _ []string) error {
			if err := to.connect(cmd); err != nil {
				return err
			}
			if err := app.chooseFormat(cmd, format, listFormats); err != nil {
				return err
			}
			accounts := []accountJSON{}
			req := &authv1.ListAccountsRequest{}
			for {
				res, err := to.accounts.ListAccounts(cmd.Context(), connect.NewRequest(req))
				if err != nil {
					return err
				}
				for _, a := range res.Msg.GetAccounts() {
					accounts = append(accounts, accountJSONOf(a))
				}
				if req.PageToken = res.Msg.GetNextPageToken(); req.PageToken == "" {
					break
				}
			}
			if app.JSON {
				return app.WriteJSON(map[string][]accountJSON{"accounts": accounts})
			}
			rows := make([][]string, len(accounts))
			for i, a := range accounts {
				state := "active"
				if a.Disabled {
					state = "disabled"
				}
				rows[i] = []string{a.Name, a.Kind, state, strings.Join(a.Roles, ", "), a.ID}
			}
			return app.writeList(*format, []string{"name", "kind", "state", "roles", "id"}, rows, nil)
		}),
	}
	format = listFormat(cmd)
	return cmd
}

func (app *App) userDisableCommand(to *target, disabled bool) *cobra.Command {
	cmd := &cobra.Command{Use: "disable NAME", Short: "Refuse an account everywhere", Args: cobra.ExactArgs(1)}
	if !disabled {
		cmd.Use, cmd.Short = "enable NAME", "Let a disabled account in again"
	}
	cmd.RunE = app.Run(func(cmd *cobra.Command, args []string) error {
		if err := to.connect(cmd); err != nil {
			return err
		}
		res, err := to.accounts.SetDisabled(cmd.Context(), connect.NewRequest(&authv1.SetDisabledRequest{
			Account: args[0], Disabled: disabled,
		}))
		if err != nil {
			return err
		}
		return app.showAccount(res.Msg.GetAccount())
	})
	return cmd
}

func (app *App) userGrantCommand(to *target, grant bool) *cobra.Command {
	cmd := &cobra.Command{
		Use: "grant NAME ROLE", Short: "Give an account a role: admin, reader:DB, writer:DB or owner:DB", Args: cobra.ExactArgs(2),
	}
	if !grant {
		cmd.Use, cmd.Short = "revoke NAME ROLE", "Take a role from an account"
	}
	cmd.RunE = app.Run(func(cmd *cobra.Command, args []string) error {
		g, err := parseGrant(args[1])
		if err != nil {
			return err
		}
		if err := to.connect(cmd); err != nil {
			return err
		}
		var account *authv1.Account
		if grant {
			res, err := to.accounts.GrantRole(cmd.Context(), connect.NewRequest(&authv1.GrantRoleRequest{Account: args[0], Grant: g}))
			if err != nil {
				return err
			}
			account = res.Msg.GetAccount()
		} else {
			res, err := to.accounts.RevokeRole(cmd.Context(), connect.NewRequest(&authv1.RevokeRoleRequest{Account: args[0], Grant: g}))
			if err != nil {
				return err
			}
			account = res.Msg.GetAccount()
		}
		return app.showAccount(account)
	})
	return cmd
}

func (app *App) userTenantCommand(to *target) *cobra.Command {
	return &cobra.Command{
		Use:   "tenant NAME TENANT",
		Short: "Say whom an account belongs to, for policies; '' is nobody",
		Args:  cobra.ExactArgs(2),
		RunE: app.Run(func(cmd *cobra.Command, args []string) error {
			if err := to.connect(cmd); err != nil {
				return err
			}
			res, err := to.accounts.SetTenant(cmd.Context(), connect.NewRequest(&authv1.SetTenantRequest{
				Account: args[0], Tenant: args[1],
			}))
			if err != nil {
				return err
			}
			return app.showAccount(res.Msg.GetAccount())
		}),
	}
}

// keyJSON is an API key as programs read it.
type keyJSON struct {
	ID        string `json:"id"`
	AccountID string `json:"accountId"`
	Prefix    string `json:"prefix"`
	ExpiresAt string `json:"expiresAt,omitempty"` // RFC 3339
	Secret    string `json:"secret,omitempty"`
}

func keyJSONOf(k *authv1.ApiKey, secret string) keyJSON {
	out := keyJSON{ID: k.GetId(), AccountID: k.GetAccountId(), Prefix: k.GetPrefix(), Secret: secret}
	if k.GetExpireTime() != nil {
		out.ExpiresAt = k.GetExpireTime().AsTime().Format(time.RFC3339)
	}
	return out
}

// showKey shows a new key: its secret is all there is on standard output, so that it can be taken from there.
func (app *App) showKey(k *authv1.ApiKey, secret string) error {
	if app.JSON {
		return app.WriteJSON(keyJSONOf(k, secret))
	}
	app.printf(app.Stderr, "key %s; its secret is shown this once:\n", k.GetId())
	app.printf(app.Stdout, "%s\n", secret)
	return nil
}

func (app *App) userKeyCommand(to *target) *cobra.Command {
	return &cobra.Command{
		Use:   "key NAME",
		Short: "Make an API key of an account and show it, this once",
		Args:  cobra.ExactArgs(1),
		RunE: app.Run(func(cmd *cobra.Command, args []string) error {
			if err := to.connect(cmd); err != nil {
				return err
			}
			res, err := to.accounts.CreateApiKey(cmd.Context(), connect.NewRequest(&authv1.CreateApiKeyRequest{Account: args[0]}))
			if err != nil {
				return err
			}
			return app.showKey(res.Msg.GetKey(), res.Msg.GetSecret())
		}),
	}
}

func (app *App) userKeysCommand(to *target) *cobra.Command {
	return &cobra.Command{
		Use:   "keys NAME",
		Short: "List an account's API keys",
		Args:  cobra.ExactArgs(1),
		RunE: app.Run(func(cmd *cobra.Command, args []string) error {
			if err := to.connect(cmd); err != nil {
				return err
			}
			res, err := to.accounts.ListApiKeys(cmd.Context(), connect.NewRequest(&authv1.ListApiKeysRequest{Account: args[0]}))
			if err != nil {
				return err
			}
			keys := []keyJSON{}
			for _, k := range res.Msg.GetKeys() {
				keys = append(keys, keyJSONOf(k, ""))
			}
			if app.JSON {
				return app.WriteJSON(map[string][]keyJSON{"keys": keys})
			}
			for _, k := range keys {
				end := k.ExpiresAt
				if end == "" {
					end = "never"
				}
				app.printf(app.Stdout, "%s %s… ends %s\n", k.ID, k.Prefix, end)
			}
			return nil
		}),
	}
}

func (app *App) userRotateKeyCommand(to *target) *cobra.Command {
	overlap := time.Hour
	cmd := &cobra.Command{
		Use:   "rotate-key KEY",
		Short: "Make an API key in place of another one, which goes on for a while",
		Args:  cobra.ExactArgs(1),
		RunE: app.Run(func(cmd *cobra.Command, args []string) error {
			if err := to.connect(cmd); err != nil {
				return err
			}
			res, err := to.accounts.RotateApiKey(cmd.Context(), connect.NewRequest(&authv1.RotateApiKeyRequest{
				Id: args[0], Overlap: durationpb.New(overlap),
			}))
			if err != nil {
				return err
			}
			return app.showKey(res.Msg.GetKey(), res.Msg.GetSecret())
		}),
	}
	cmd.Flags().DurationVar(&overlap, "overlap", overlap, "how long the old key goes on")
	return cmd
}

func (app *App) userRotateSigningKeyCommand(to *target) *cobra.Command {
	var revoke, yes bool
	cmd := &cobra.Command{
		Use:   "rotate-signing-key",
		Short: "Make a new key that access tokens are signed with",
		Long: `Make a new key that access tokens are signed with, a minute from now. What others have signed goes on to its end.

With --revoke-others all other keys end now, and with them every access token that there is: for a key that somebody else may have. Whoever
is logged in gets a new one with their refresh token; API keys go on.`,
		Args: cobra.NoArgs,
		RunE: app.Run(func(cmd *cobra.Command, _ []string) error {
			if revoke && !yes {
				return usagef("this ends all access tokens: repeat with --yes")
			}
			if err := to.connect(cmd); err != nil {
				return err
			}
			res, err := to.accounts.RotateSigningKey(cmd.Context(), connect.NewRequest(&authv1.RotateSigningKeyRequest{RevokeOthers: revoke}))
			if err != nil {
				return err
			}
			from := res.Msg.GetSignsFrom().AsTime()
			if app.JSON {
				return app.WriteJSON(map[string]string{"kid": res.Msg.GetKid(), "signsFrom": from.Format(time.RFC3339)})
			}
			return app.confirm(nil, "key %s signs from %s", res.Msg.GetKid(), from.Local().Format(time.DateTime))
		}),
	}
	cmd.Flags().BoolVar(&revoke, "revoke-others", false, "end all other keys, and what they have signed, now")
	cmd.Flags().BoolVar(&yes, "yes", false, "do not ask")
	return cmd
}

func (app *App) userRevokeKeyCommand(to *target) *cobra.Command {
	return &cobra.Command{
		Use:   "revoke-key KEY",
		Short: "End an API key",
		Args:  cobra.ExactArgs(1),
		RunE: app.Run(func(cmd *cobra.Command, args []string) error {
			if err := to.connect(cmd); err != nil {
				return err
			}
			_, err := to.accounts.RevokeApiKey(cmd.Context(), connect.NewRequest(&authv1.RevokeApiKeyRequest{Id: args[0]}))
			return app.confirm(err, "key %s has ended", args[0])
		}),
	}
}

func (app *App) userResetCommand(to *target) *cobra.Command {
	return &cobra.Command{
		Use:   "reset NAME",
		Short: "Make a token with which a user sets a new password",
		Args:  cobra.ExactArgs(1),
		RunE: app.Run(func(cmd *cobra.Command, args []string) error {
			if err := to.connect(cmd); err != nil {
				return err
			}
			res, err := to.accounts.CreateResetToken(cmd.Context(), connect.NewRequest(&authv1.CreateResetTokenRequest{Account: args[0]}))
			if err != nil {
				return err
			}
			ends := res.Msg.GetExpireTime().AsTime().Format(time.RFC3339)
			if app.JSON {
				return app.WriteJSON(map[string]string{"resetToken": res.Msg.GetResetToken(), "expiresAt": ends})
			}
			app.printf(app.Stdout, "%s\n", res.Msg.GetResetToken())
			return nil
		}),
	}
}

func (app *App) userLogoutCommand(to *target) *cobra.Command {
	return &cobra.Command{
		Use:   "logout ID",
		Short: "End all sessions and access tokens of an account",
		Args:  cobra.ExactArgs(1),
		RunE: app.Run(func(cmd *cobra.Command, args []string) error {
			if err := to.connect(cmd); err != nil {
				return err
			}
			_, err := to.auth.RevokeToken(cmd.Context(), connect.NewRequest(&authv1.RevokeTokenRequest{
				Target: &authv1.RevokeTokenRequest_AccountId{AccountId: args[0]},
			}))
			return app.confirm(err, "all sessions of %s have ended", args[0])
		}),
	}
}

// confirm says that something is done, if it is.
func (app *App) confirm(err error, format string, args ...any) error {
	if err != nil {
		return err
	}
	if app.JSON {
		return app.WriteJSON(map[string]bool{"done": true})
	}
	app.printf(app.Stdout, "%s\n", fmt.Sprintf(format, args...))
	return nil
}
