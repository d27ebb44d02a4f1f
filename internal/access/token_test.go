package access

import (
	"crypto/ed25519"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/internal/meshdb"
	"github.com/nearside-dev/nearside/internal/rpcerr"
	"github.com/nearside-dev/nearside/internal/value"
)

func TestTokenOfAnAccount(t *testing.T) {
	w := newWorld(t)
	for range 2 { // the second time it is known
		p, err := w.verifier.Header("bearer " + w.token(t, nil))
		if err != nil || p.Actor() != "user:u_ann" || p.Name != "ann" || !p.HasRole("reader:shop") || p.Credential != "t_1" {
			t.Fatalf("%+v, %v", p, err)
		}
	}
	p, err := w.verifier.Header("Bearer " + w.apiKey)
	if err != nil || p.Actor() != "service:sa_bot" || !p.HasRole(RoleAdmin) {
		t.Fatalf("%+v, %v", p, err)
	}
}

// segment is part of a token that no library would make.
func segment(tb testing.TB, v any) string {
	tb.Helper()
	text, err := json.Marshal(v)
	if err != nil {
		tb.Fatal(err)
	}
	return base64.RawURLEncoding.EncodeToString(text)
}

func TestForgedTokens(t *testing.T) {
	w := newWorld(t)
	good := w.token(t, nil)
	parts := strings.Split(good, ".")
	payload := segment(t, w.claims())
	_, other, _ := ed25519.GenerateKey(rand.Reader)
	signed := func(header any, key ed25519.PrivateKey) string {
		text := segment(t, header) + "." + payload
		return text + "." + base64.RawURLEncoding.EncodeToString(ed25519.Sign(key, []byte(text)))
	}
	hs := func(secret []byte) string {
		text := segment(t, map[string]string{"alg": "HS256", "typ": "JWT", "kid": "kid1"}) + "." + payload
		mac := hmac.New(sha256.New, secret)
		mac.Write([]byte(text))
		return text + "." + base64.RawURLEncoding.EncodeToString(mac.Sum(nil))
	}
	head := func(alg, kid string) map[string]string {
		return map[string]string{"alg": alg, "typ": "JWT", "kid": kid}
	}
	for name, token := range map[string]string{
		"empty":                  "",
		"alg none":               segment(t, head("none", "kid1")) + "." + payload + ".",
		"alg None":               segment(t, head("None", "kid1")) + "." + payload + "." + parts[2],
		"HS256 with public key":  hs(w.key.Public().(ed25519.PublicKey)),
		"HS256 with kid":         hs([]byte("kid1")),
		"another mesh's key":     signed(head("EdDSA", "kid1"), other),
		"unknown kid":            signed(head("EdDSA", "kid2"), w.key),
		"kid of a path":          signed(head("EdDSA", "../../../dev/null"), w.key),
		"own key in the header":  signed(map[string]any{"alg": "EdDSA", "typ": "JWT", "kid": "kid1", "jwk": map[string]string{"kty": "OKP"}}, w.key),
		"critical extension":     signed(map[string]any{"alg": "EdDSA", "typ": "JWT", "kid": "kid1", "crit": []string{"exp"}}, w.key),
		"no kid":                 signed(map[string]string{"alg": "EdDSA", "typ": "JWT"}, w.key),
		"truncated":              good[:len(good)-2],
		"no signature":           parts[0] + "." + parts[1] + ".",
		"two parts":              parts[0] + "." + parts[1],
		"four parts":             good + "." + parts[2],
		"padding":                good + "==",
		"another payload":        parts[0] + "." + segment(t, map[string]string{"sub": "sa_bot"}) + "." + parts[2],
		"too long":               good + strings.Repeat("x", maxTokenBytes),
		"wrong audience":         w.token(t, func(c *Claims) { c.Audience = jwt.ClaimStrings{"elsewhere"} }),
		"another audience too":   w.token(t, func(c *Claims) { c.Audience = append(c.Audience, "elsewhere") }),
		"no audience":            w.token(t, func(c *Claims) { c.Audience = nil }),
		"another mesh's issuer":  w.token(t, func(c *Claims) { c.Issuer = "nearside:other" }),
		"not yet valid":          w.token(t, func(c *Claims) { c.NotBefore = jwt.NewNumericDate(w.now.Add(time.Hour)) }),
		"made in the future":     w.token(t, func(c *Claims) { c.IssuedAt = jwt.NewNumericDate(w.now.Add(time.Hour)) }),
		"without an end":         w.token(t, func(c *Claims) { c.ExpiresAt = nil }),
		"without a beginning":    w.token(t, func(c *Claims) { c.NotBefore = nil }),
		"without a time":         w.token(t, func(c *Claims) { c.MadeAtMs = 0 }),
		"without an id":          w.token(t, func(c *Claims) { c.ID = "" }),
		"of nobody":              w.token(t, func(c *Claims) { c.Subject = "u_bob" }),
		"a key that is none":     APIKeyPrefix + "aaaaaaaa_bbbb",
		"half of a key":          w.apiKey[:len(w.apiKey)-1],
		"a key in capitals":      APIKeyPrefix + strings.ToUpper(w.apiKey[len(APIKeyPrefix):]),
		"a refresh token's form": RefreshTokenPrefix + w.apiKey[len(APIKeyPrefix):],
	} {
		for range 2 { // nothing of it may be kept
			if got := w.reason(token); got != "TOKEN_INVALID" {
				t.Errorf("%s: %q", name, got)
			}
		}
	}
	expired := w.token(t, func(c *Claims) { c.ExpiresAt = jwt.NewNumericDate(w.now) })
	if got := w.reason(expired); got != "TOKEN_EXPIRED" {
		t.Errorf("expired: %q", got)
	}
	if got := w.reason(good); got != "" {
		t.Errorf("the good one: %s", got)
	}
}

// TestSwappedKeys: that there is a key which has signed a token is not enough, where it names another one, whose tokens are good too.
func TestSwappedKeys(t *testing.T) {
	w := newWorld(t)
	public, second, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	w.add(meshdb.TableSigningKeys, value.Text("kid2"), value.Text(issuer), value.Blob(public), value.Integer(0))
	sign := func(kid string, key ed25519.PrivateKey) string {
		text, err := Sign(w.claims(), kid, key)
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	first, other := sign("kid1", w.key), sign("kid2", second)
	head, _, _ := strings.Cut(other, ".")
	_, rest, _ := strings.Cut(first, ".")
	for name, text := range map[string]string{
		"the first key's, named the second's": sign("kid2", w.key), "the second key's, named the first's": sign("kid1", second),
		"the first's under the second's head": head + "." + rest,
	} {
		for range 2 {
			if got := w.reason(text); got != "TOKEN_INVALID" {
				t.Errorf("%s: %q", name, got)
			}
		}
	}
	for _, text := range []string{first, other} {
		if got := w.reason(text); got != "" {
			t.Errorf("a good one: %s", got)
		}
	}
}

func TestRequestHeaders(t *testing.T) {
	w := newWorld(t)
	good := "Bearer " + w.apiKey
	for name, test := range map[string]struct {
		lines []string
		want  datav1.ErrorReason
	}{
		"none":       {nil, datav1.ErrorReason_ERROR_REASON_UNAUTHENTICATED},
		"two":        {[]string{good, good}, datav1.ErrorReason_ERROR_REASON_TOKEN_INVALID},
		"no scheme":  {[]string{w.apiKey}, datav1.ErrorReason_ERROR_REASON_UNAUTHENTICATED},
		"basic":      {[]string{"Basic " + w.apiKey}, datav1.ErrorReason_ERROR_REASON_UNAUTHENTICATED},
		"only":       {[]string{"Bearer "}, datav1.ErrorReason_ERROR_REASON_UNAUTHENTICATED},
		"two spaces": {[]string{"Bearer  " + w.apiKey}, datav1.ErrorReason_ERROR_REASON_TOKEN_INVALID},
		"list":       {[]string{good + "," + good}, datav1.ErrorReason_ERROR_REASON_TOKEN_INVALID},
	} {
		if _, err := w.verifier.Request(http.Header{"Authorization": test.lines}); rpcerr.ReasonOf(err) != test.want {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzCredential(f *testing.F) {
	w := newWorld(f)
	good := []string{w.token(f, nil), w.apiKey}
	for _, text := range good {
		f.Add(text)
	}
	f.Add("a.b.c")
	f.Fuzz(func(t *testing.T, text string) {
		p, err := w.verifier.Credential(text)
		if err == nil && !slices.Contains(good, text) {
			t.Fatalf("%q is %v", text, p)
		}
	})
}
