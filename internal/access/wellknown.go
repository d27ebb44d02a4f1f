package access

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"slices"
	"strings"

	authv1 "github.com/nearside-dev/nearside/gen/nearside/auth/v1"
	"github.com/nearside-dev/nearside/internal/identity"
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
	mux.HandleFunc("GET /.well-known/jwks.json", func(w http.ResponseWriter, _ *http.Request) {
		keys, err := v.Jwks()
		writeJSON(w, map[string]any{"keys": append([]*authv1.GetJwksResponse_Jwk{}, keys.GetKeys()...)}, err)
	})
	mux.HandleFunc("GET /.well-known/openid-configuration", func(w http.ResponseWriter, r *http.Request) {
		issuer, err := v.issuer()
		scheme := "http://"
		if r.TLS != nil {
			scheme = "https://"
		}
		writeJSON(w, map[string]any{
			"issuer": issuer, "jwks_uri": scheme + r.Host + "/.well-known/jwks.json",
			"id_token_signing_alg_values_supported": []string{"EdDSA"},
			"response_types_supported":              []string{"token"},
			"subject_types_supported":               []string{"public"},
		}, err)
	})
}

func writeJSON(w http.ResponseWriter, answer any, err error) {
	if err != nil {
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "public, max-age=60")
	_ = json.NewEncoder(w).Encode(answer) //nolint:errchkjson // whoever asked has gone
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
