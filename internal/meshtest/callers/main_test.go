package callers_test

import (
	"context"
	"net/http"
	"strings"
	"testing"

	"connectrpc.com/connect"
	"go.uber.org/goleak"

	authv1 "github.com/nearside-dev/nearside/gen/nearside/auth/v1"
	"github.com/nearside-dev/nearside/gen/nearside/auth/v1/authv1connect"
	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/gen/nearside/data/v1/datav1connect"
	"github.com/nearside-dev/nearside/internal/cli"
	"github.com/nearside-dev/nearside/internal/httpclient"
	"github.com/nearside-dev/nearside/internal/meshtest"
	"github.com/nearside-dev/nearside/internal/rpcerr"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	east = "us-east-1"
	west = "eu-west-1"
	shop = "shop"

	password = "a password of ann's own"
)

// world is a mesh with authentication, a database with a table, and clients without any credential of their own.
type world struct {
	*meshtest.Mesh

	t    *testing.T
	bare *http.Client
}

func start(t *testing.T, o meshtest.Options) *world {
	t.Helper()
	o.Auth = true
	w := &world{Mesh: meshtest.Start(t, o), t: t, bare: httpclient.NewUnary()}
	t.Cleanup(w.bare.CloseIdleConnections)
	w.Create(shop)
	w.Exec("", shop, "CREATE TABLE items (id INTEGER PRIMARY KEY, name TEXT NOT NULL)")
	w.Exec("", shop, "INSERT INTO items VALUES (1, 'apple')")
	w.WaitSync(shop)
	return w
}

func (w *world) auth(region, token string) authv1connect.AuthServiceClient {
	return authv1connect.NewAuthServiceClient(w.bare, w.URL(region), cli.WithToken(token))
}

func (w *world) accounts(region, token string) authv1connect.AccountServiceClient {
	return authv1connect.NewAccountServiceClient(w.bare, w.URL(region), cli.WithToken(token))
}

// data returns a data client of a region, "" is the primary, that shows a token.
func (w *world) data(region, token string) datav1connect.DataServiceClient {
	url := w.PrimaryURL()
	if region != "" {
		url = w.URL(region)
	}
	return datav1connect.NewDataServiceClient(w.bare, url, cli.WithToken(token))
}

// user makes a user with the password, by way of a region.
func (w *world) user(region, name string, grants ...*authv1.Grant) *authv1.Account {
	w.t.Helper()
	res, err := w.accounts(region, w.AdminToken()).CreateAccount(context.Background(), connect.NewRequest(&authv1.CreateAccountRequest{
		Kind: authv1.AccountKind_ACCOUNT_KIND_USER, Name: name, Password: password, Grants: grants,
	}))
	if err != nil {
		w.t.Fatal(err)
	}
	return res.Msg.GetAccount()
}

func grant(role authv1.Role) *authv1.Grant { return &authv1.Grant{Role: role, Database: shop} }

func (w *world) login(region, name, password string) (*authv1.Tokens, error) {
	res, err := w.auth(region, "").Authenticate(context.Background(), connect.NewRequest(&authv1.AuthenticateRequest{
		Credential: &authv1.AuthenticateRequest_Password_{Password: &authv1.AuthenticateRequest_Password{Name: name, Password: password}},
	}))
	if err != nil {
		return nil, err
	}
	return res.Msg.GetTokens(), nil
}

func (w *world) mustLogin(region, name string) *authv1.Tokens {
	w.t.Helper()
	tokens, err := w.login(region, name, password)
	if err != nil {
		w.t.Fatal(err)
	}
	return tokens
}

// get reads the row of the key 1 with a token, on the short way.
func (w *world) get(region, token string) error {
	_, err := w.data(region, token).Get(context.Background(), connect.NewRequest(&datav1.GetRequest{
		Database: shop, Table: "items", Key: &datav1.Key{Values: []*datav1.Value{{Kind: &datav1.Value_Integer{Integer: 1}}}},
	}))
	return err
}

// insert writes a row with a token, in a typed transaction, which goes in a bundle.
func (w *world) insert(region, token, key, name string) (*datav1.TransactResponse, error) {
	res, err := w.data(region, token).Transact(context.Background(), connect.NewRequest(&datav1.TransactRequest{
		Database: shop, IdempotencyKey: key,
		Operations: []*datav1.Operation{{Operation: &datav1.Operation_Put{Put: &datav1.Put{
			Table: "items", Values: map[string]*datav1.Value{"name": {Kind: &datav1.Value_Text{Text: name}}},
		}}}},
	}))
	if err != nil {
		return nil, err
	}
	return res.Msg, nil
}

// reason is the reason of an error without its prefix; "" is no error.
func reason(err error) string {
	if err == nil {
		return ""
	}
	return strings.TrimPrefix(rpcerr.ReasonOf(err).String(), "ERROR_REASON_")
}

func expect(t *testing.T, what string, err error, want string) {
	t.Helper()
	if got := reason(err); got != want {
		t.Errorf("%s: %q (%v), want %q", what, got, err, want)
	}
}
