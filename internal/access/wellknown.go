package access

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/zeebo/xxh3"

	authv1 "github.com/nearside-dev/nearside/gen/nearside/auth/v1"
	"github.com/nearside-dev/nearside/internal/identity"
	"github.com/nearside-dev/nearside/internal/server"
)

// Jwks returns the public keys that access tokens are verified with, by id.
func (v *Verifier) Jwks() (*authv1.GetJwksResponse, error) {
	s, err := v.state()
	if err != nil {
		return nil, err
	}
	msg := &authv1.GetJwksResponse{}
	now := v.clock().UnixMilli()
	for kid, k := range s.signing {
		if k.verifiesUntil != 0 && k.verifiesUntil < now {
			continue
		}
		msg.Keys = append(msg.Keys, &authv1.GetJwksResponse_Jwk{
			Kty: "OKP", Crv: "Ed25519", Kid: kid, X: base64.RawURLEncoding.EncodeToString(k.public), Alg: "EdDSA", Use: "sig",
		})
	}
	slices.SortFunc(msg.Keys, func(a, b *authv1.GetJwksResponse_Jwk) int { return strings.Compare(a.Kid, b.Kid) })
	return msg, nil
}

// Issuer returns what access tokens name as their issuer; "" before there are any.
func (v *Verifier) issuer() (string, error) {
	s, err := v.state()
	if err != nil {
		return "", err
	}
	for _, k := range s.signing {
		return k.issuer, nil
	}
	return "", nil
}

// Mount serves /.well-known/jwks.json and /.well-known/openid-configuration.
func (v *Verifier) Mount(mux *http.ServeMux) {
	mux.Handle("/.well-known/jwks.json", server.ReadOnly(func(w http.ResponseWriter, r *http.Request) {
		keys, err := v.Jwks()
		writeJSON(w, r, map[string]any{"keys": append([]*authv1.GetJwksResponse_Jwk{}, keys.GetKeys()...)}, err)
	}))
	mux.Handle("/.well-known/openid-configuration", server.ReadOnly(func(w http.ResponseWriter, r *http.Request) {
		issuer, err := v.issuer()
		scheme := "http://"
		if r.TLS != nil {
			scheme = "https://"
		}
		writeJSON(w, r, map[string]any{
			"issuer": issuer, "jwks_uri": scheme + r.Host + "/.well-known/jwks.json",
			"id_token_signing_alg_values_supported": []string{"EdDSA"},
			"response_types_supported":              []string{"token"},
			"subject_types_supported":               []string{"public"},
		}, err)
	}))
}

func writeJSON(w http.ResponseWriter, r *http.Request, answer any, err error) {
	var text []byte
	if err == nil {
		text, err = json.Marshal(answer)
	}
	if err != nil {
		w.Header().Set("Cache-Control", "no-store")
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Cache-Control", "public, max-age=60")
	h.Set("Etag", `"`+strconv.FormatUint(xxh3.Hash(text), 36)+`"`)
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(append(text, '\n')))
}

// Answer answers AuthService.Authorize: a token that is not valid is an answer too. Somebody else's rights are told to whoever
// has their token.
func (g *Guard) Answer(ctx context.Context, msg *authv1.AuthorizeRequest) (*authv1.AuthorizeResponse, error) {
	p := identity.From(ctx)
	if msg.GetToken() != "" {
		var err error
		if p, err = g.verifier.Credential(msg.GetToken()); err != nil {
			return &authv1.AuthorizeResponse{Policy: "token"}, nil //nolint:nilerr // that is the answer
		}
	}
	d := g.Explain(p, msg.GetAction(), msg.GetDatabase(), msg.GetTable())
	res := &authv1.AuthorizeResponse{Allowed: d.Allowed, Policy: d.Policy, Principal: p.Actor()}
	if d.Rows != nil {
		res.RowPolicy = d.Rows.Policy
	}
	return res, nil
}
