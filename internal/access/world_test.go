package access

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/nearside-dev/nearside/internal/meshdb"
	"github.com/nearside-dev/nearside/internal/rpcerr"
	"github.com/nearside-dev/nearside/internal/value"
)

// rows is a Source.
type rows struct {
	mu        sync.Mutex // guards version and tables
	version   uint64
	tables    map[string][][]value.Value
	connected bool
	fails     error
	wait      func(context.Context, Version)
}

func (r *rows) Wait(ctx context.Context, v Version) { r.wait(ctx, v) }

func (r *rows) Version() (Version, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return Version{Version: r.version}, r.version > 0
}

func (r *rows) Connected() bool { return r.connected }

func (r *rows) Read(f func(string, []value.Value) error) (Version, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for name, all := range r.tables {
		for _, v := range all {
			if err := f(name, v); err != nil {
				return Version{}, err
			}
		}
	}
	return Version{Version: r.version}, r.fails
}

func (r *rows) add(table string, v ...value.Value) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.tables[table] = append(r.tables[table], v)
	r.version++
}

func (r *rows) clear(table string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.tables, table)
	r.version++
}

const issuer = "nearside:test"

// world is a mesh of one user, ann, a service account with a key, and a signing key.
type world struct {
	*rows

	now      time.Time
	verifier *Verifier
	guard    *Guard
	key      ed25519.PrivateKey
	apiKey   string

	asks func() bool // of a connection, and who is told what is wrong
	fail func(...any)
}

func newWorld(tb testing.TB) *world {
	tb.Helper()
	public, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		tb.Fatal(err)
	}
	w := &world{
		rows: &rows{tables: make(map[string][][]value.Value), connected: true}, now: time.Now().Truncate(time.Second), key: key,
	}
	t, i := value.Text, value.Integer
	w.add(meshdb.TableAccounts, t("u_ann"), t("user"), t("ann"), i(0), i(0))
	w.add(meshdb.TableAccountRoles, t("u_ann"), t("reader"), t("shop"))
	w.add(meshdb.TableAccounts, t("sa_bot"), t("service"), t("bot"), i(0), i(0))
	w.add(meshdb.TableAccountRoles, t("sa_bot"), t("admin"), t(""))
	w.apiKey, _ = NewSecret(APIKeyPrefix)
	hash := HashSecret(w.apiKey)
	w.add(meshdb.TableAPIKeys, t("k_1"), t("sa_bot"), value.Blob(hash[:]), i(0))
	w.add(meshdb.TableSigningKeys, t("kid1"), t(issuer), value.Blob(public), i(0))
	w.verifier, err = NewVerifier(VerifierOptions{Source: w.rows, MaxTokens: 64, Clock: func() time.Time { return w.now }})
	if err != nil {
		tb.Fatal(err)
	}
	if w.guard, err = NewGuard(GuardOptions{Verifier: w.verifier, Logger: discard()}); err != nil {
		tb.Fatal(err)
	}
	return w
}

func (w *world) claims() *Claims {
	return &Claims{
		RegisteredClaims: jwt.RegisteredClaims{
			Issuer: issuer, Subject: "u_ann", Audience: jwt.ClaimStrings{Audience}, ID: "t_1", IssuedAt: jwt.NewNumericDate(w.now),
			NotBefore: jwt.NewNumericDate(w.now), ExpiresAt: jwt.NewNumericDate(w.now.Add(10 * time.Minute)),
		},
		Session: "s_1", MadeAtMs: w.now.UnixMilli(),
	}
}

func (w *world) token(tb testing.TB, change func(*Claims)) string {
	tb.Helper()
	c := w.claims()
	if change != nil {
		change(c)
	}
	text, err := Sign(c, "kid1", w.key)
	if err != nil {
		tb.Fatal(err)
	}
	return text
}

// reason returns what is wrong with a credential; "" is nothing.
func (w *world) reason(credential string) string {
	_, err := w.verifier.Credential(credential)
	if err == nil {
		return ""
	}
	return strings.TrimPrefix(rpcerr.ReasonOf(err).String(), "ERROR_REASON_")
}

func discard() *slog.Logger { return slog.New(slog.DiscardHandler) }
