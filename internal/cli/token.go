package cli

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"
	"golang.org/x/term"
	"google.golang.org/protobuf/types/known/timestamppb"

	authv1 "github.com/nearside-dev/nearside/gen/nearside/auth/v1"
)

// maxPasswordBytes is how long a password may be.
const maxPasswordBytes = 1024

// readPassword reads a line of standard input; a person's is not shown.
func (app *App) readPassword(prompt string) (string, error) {
	if app.takeTerminal {
		app.printf(app.Stderr, "%s: ", prompt)
		password, err := term.ReadPassword(int(os.Stdin.Fd()))
		app.printf(app.Stderr, "\n")
		return string(password), err
	}
	line, err := bufio.NewReader(io.LimitReader(app.Stdin, maxPasswordBytes+2)).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return "", fmt.Errorf("read password: %w", err)
	}
	line = strings.TrimRight(line, "\r\n")
	if line == "" {
		return "", usagef("the password is read from standard input, and there is none")
	}
	return line, nil
}

func (app *App) tokenCommand() *cobra.Command {
	var to target
	var account string
	var expires time.Duration
	cmd := &cobra.Command{
		Use:   "token",
		Short: "Show the token that commands send, or make an API key",
		Long: `Show the token that commands send: that of --token, of --dir, or of the mesh that was
started in this folder. With --account make an API key of an account instead.`,
		Example: `  curl -H "Authorization: Bearer $(nearside token)" …`,
		Args:    cobra.NoArgs,
		RunE: app.Run(func(cmd *cobra.Command, _ []string) error {
			if err := to.connect(cmd); err != nil {
				return err
			}
			if account == "" {
				if to.Token == "" {
					return errors.New("there is no token: name one with --token or --dir, or start a mesh in this folder")
				}
				if app.JSON {
					return app.WriteJSON(map[string]string{"url": to.URL, "token": to.Token})
				}
				app.printf(app.Stdout, "%s\n", to.Token)
				return nil
			}
			req := &authv1.CreateApiKeyRequest{Account: account}
			if expires > 0 {
				req.ExpireTime = timestamppb.New(time.Now().Add(expires))
			}
			res, err := to.accounts.CreateApiKey(cmd.Context(), connect.NewRequest(req))
			if err != nil {
				return err
			}
			return app.showKey(res.Msg.GetKey(), res.Msg.GetSecret())
		}),
	}
	to.register(cmd)
	cmd.Flags().StringVar(&account, "account", "", "make an API key of this account")
	cmd.Flags().DurationVar(&expires, "expires", 0, "when the API key ends; 0 is never")
	return cmd
}

func (app *App) loginCommand() *cobra.Command {
	var to target
	cmd := &cobra.Command{
		Use:   "login NAME",
		Short: "Exchange a password, the first line of standard input, for an access token",
		Args:  cobra.ExactArgs(1),
		RunE: app.Run(func(cmd *cobra.Command, args []string) error {
			password, err := app.readPassword("Password of " + args[0])
			if err != nil {
				return err
			}
			if err := to.connect(cmd); err != nil {
				return err
			}
			res, err := to.auth.Authenticate(cmd.Context(), connect.NewRequest(&authv1.AuthenticateRequest{
				Credential: &authv1.AuthenticateRequest_Password_{Password: &authv1.AuthenticateRequest_Password{
					Name: args[0], Password: password,
				}},
			}))
			if err != nil {
				return err
			}
			t := res.Msg.GetTokens()
			if app.JSON {
				return app.WriteJSON(map[string]string{
					"token": t.GetAccessToken(), "expiresAt": t.GetExpireTime().AsTime().Format(time.RFC3339),
					"refreshToken": t.GetRefreshToken(), "sessionId": t.GetSessionId(), "accountId": t.GetAccountId(),
				})
			}
			app.printf(app.Stdout, "%s\n", t.GetAccessToken())
			return nil
		}),
	}
	to.register(cmd)
	return cmd
}

func (app *App) limitCommand() *cobra.Command {
	var to target
	cmd := &cobra.Command{
		Use:   "limit",
		Short: "Keep rate limits",
		RunE:  missingCommand,
	}
	to.register(cmd)
	var rate float64
	var burst uint32
	set := &cobra.Command{
		Use:   "set SCOPE [SUBJECT] --rate N --burst N",
		Short: "Limit an identity, address, method or database, or with no SUBJECT each of them",
		Args:  cobra.RangeArgs(1, 2),
		RunE: app.Run(func(cmd *cobra.Command, args []string) error {
			l := &authv1.RateLimit{PerSecond: rate, Burst: burst}
			var err error
			if l.Scope, l.Subject, err = parseLimit(args); err != nil {
				return err
			}
			if err := to.connect(cmd); err != nil {
				return err
			}
			_, err = to.accounts.SetRateLimit(cmd.Context(), connect.NewRequest(&authv1.SetRateLimitRequest{Limit: l}))
			return app.confirm(err, "limit is set")
		}),
	}
	set.Flags().Float64Var(&rate, "rate", 0, "calls per second")
	set.Flags().Uint32Var(&burst, "burst", 0, "calls at once")
	list := &cobra.Command{
		Use:   "list",
		Short: "List the rate limits",
		Args:  cobra.NoArgs,
		RunE:  app.Run(func(cmd *cobra.Command, _ []string) error { return app.listLimits(cmd, &to) }),
	}
	remove := &cobra.Command{
		Use:   "delete SCOPE [SUBJECT]",
		Short: "Delete a rate limit",
		Args:  cobra.RangeArgs(1, 2),
		RunE: app.Run(func(cmd *cobra.Command, args []string) error {
			scope, subject, err := parseLimit(args)
			if err != nil {
				return err
			}
			if err := to.connect(cmd); err != nil {
				return err
			}
			_, err = to.accounts.DeleteRateLimit(cmd.Context(), connect.NewRequest(&authv1.DeleteRateLimitRequest{
				Scope: scope, Subject: subject,
			}))
			return app.confirm(err, "limit is gone")
		}),
	}
	cmd.AddCommand(set, list, remove)
	return cmd
}

func parseLimit(args []string) (scope authv1.RateLimitScope, subject string, err error) {
	n, ok := authv1.RateLimitScope_value["RATE_LIMIT_SCOPE_"+strings.ToUpper(args[0])]
	if !ok || n == 0 {
		return 0, "", usagef("scope %q: want identity, address, method or database", args[0])
	}
	if len(args) > 1 {
		subject = args[1]
	}
	return authv1.RateLimitScope(n), subject, nil
}

func (app *App) listLimits(cmd *cobra.Command, to *target) error {
	if err := to.connect(cmd); err != nil {
		return err
	}
	res, err := to.accounts.ListRateLimits(cmd.Context(), connect.NewRequest(&authv1.ListRateLimitsRequest{}))
	if err != nil {
		return err
	}
	type limitJSON struct {
		Scope     string  `json:"scope"`
		Subject   string  `json:"subject"`
		PerSecond float64 `json:"perSecond"`
		Burst     uint32  `json:"burst"`
	}
	limits := []limitJSON{}
	for _, l := range res.Msg.GetLimits() {
		scope := strings.ToLower(strings.TrimPrefix(l.GetScope().String(), "RATE_LIMIT_SCOPE_"))
		limits = append(limits, limitJSON{scope, l.GetSubject(), l.GetPerSecond(), l.GetBurst()})
	}
	if app.JSON {
		return app.WriteJSON(map[string][]limitJSON{"limits": limits})
	}
	for _, l := range limits {
		app.printf(app.Stdout, "%s %s: %s/s, burst %d\n", l.Scope, l.Subject, strconv.FormatFloat(l.PerSecond, 'g', -1, 64), l.Burst)
	}
	return nil
}
