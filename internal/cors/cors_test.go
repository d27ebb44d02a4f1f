package cors

import (
	"net/http"
	"strings"
	"testing"
	"time"
)

func TestOrigin(t *testing.T) {
	for in, want := range map[string]string{
		"*":                         "*",
		"https://app.example.org":   "https://app.example.org",
		"HTTPS://App.Example.org/":  "https://app.example.org",
		"https://example.org:443":   "https://example.org",
		"http://example.org:80":     "http://example.org",
		"http://example.org:443":    "http://example.org:443",
		"https://*.example.org":     "https://*.example.org",
		"http://[::1]:8080":         "http://[::1]:8080",
		"http://[0:0:0:0:0:0:0:1]":  "http://[::1]",
		"http://127.0.0.1:8080":     "http://127.0.0.1:8080",
		"capacitor://localhost":     "capacitor://localhost",
		"":                          "",
		"null":                      "",
		"app.example.org":           "",
		"https://":                  "",
		"https://a b":               "",
		"https://example.org/path":  "",
		"https://example.org?q":     "",
		"https://example.org#f":     "",
		"https://user@example.org":  "",
		"https://example.org:":      "",
		"https://example.org:0":     "",
		"https://example.org:65536": "",
		"https://example.org:080":   "",
		"https://a.*.example.org":   "",
		"https://*example.org":      "",
		"https://*":                 "",
		"https://-a.example.org":    "",
		"https://a..b":              "",
		"https://a, https://b":      "",
		"ht tp://a":                 "",
	} {
		got, err := Origin(in)
		if got != want || (err == nil) != (want != "") {
			t.Errorf("%q: %q, %v; want %q", in, got, err, want)
		}
	}
}

func TestNormalize(t *testing.T) {
	p, err := Normalize(Policy{
		Origins: []string{"https://b.example", "https://A.example/", "https://b.example:443"}, Credentials: true,
		AllowHeaders: []string{"X-Tenant", "x-tenant"}, ExposeHeaders: []string{"X-Cost"}, MaxAge: time.Minute,
	})
	if err != nil {
		t.Fatal(err)
	}
	if strings.Join(p.Origins, " ") != "https://a.example https://b.example" || strings.Join(p.AllowHeaders, " ") != "x-tenant" {
		t.Errorf("%+v", p)
	}
	for field, bad := range map[string]Policy{
		"origins[1]":        {Origins: []string{"https://a.example", "a"}},
		"origins[0]":        {Origins: []string{"*"}, Credentials: true},
		"allow_headers[0]":  {Origins: []string{"*"}, AllowHeaders: []string{"*"}},
		"expose_headers[1]": {Origins: []string{"*"}, ExposeHeaders: []string{"a", "b c"}},
		"max_age":           {Origins: []string{"*"}, MaxAge: 25 * time.Hour},
	} {
		_, err := Normalize(bad)
		if e, ok := err.(*FieldError); !ok || e.Field != field { //nolint:errorlint // it is returned as it is
			t.Errorf("%s: %v", field, err)
		}
	}
	if _, err := Normalize(Policy{Origins: []string{"https://*.example.org"}, Credentials: true}); err == nil {
		t.Error("credentials for whoever has a name below a domain")
	}
}

func TestDecider(t *testing.T) {
	policy := Policy{
		Origins: []string{"https://app.example.org", "https://*.example.net:8443"}, Credentials: true, AllowHeaders: []string{"x-tenant"},
		ExposeHeaders: []string{"x-cost"}, MaxAge: time.Hour,
	}
	d := NewDecider(policy, []string{"http://127.0.0.1:8081", "https://eu.mesh.example"})
	open := NewDecider(Policy{Origins: []string{"*"}}, nil)
	none := NewDecider(Policy{}, []string{"http://127.0.0.1:8081"})
	for _, tc := range []struct {
		d           *Decider
		origin      string
		value       string
		credentials bool
	}{
		{d, "https://app.example.org", "https://app.example.org", true},
		{d, "https://app.example.org:444", "", false},
		{d, "http://app.example.org", "", false},
		{d, "https://app.example.org.evil.example", "", false},
		{d, "https://a.example.net:8443", "https://a.example.net:8443", false},
		{d, "https://a.b.example.net:8443", "https://a.b.example.net:8443", false},
		{d, "https://example.net:8443", "", false},
		{d, "https://.example.net:8443", "", false},
		{d, "https://evil.example/.example.net:8443", "", false},
		{d, "https://evilexample.net:8443", "", false},
		{d, "http://localhost:8081", "http://localhost:8081", false},
		{d, "http://[::1]:8081", "http://[::1]:8081", false},
		{d, "http://localhost:8080", "", false},
		{d, "https://localhost:8081", "", false},
		{d, "https://eu.mesh.example", "https://eu.mesh.example", false},
		{d, "null", "", false},
		{d, "*", "", false},
		{open, "https://app.example.org", "*", false},
		{open, "null", "*", false},
		{none, "https://app.example.org", "", false},
		{none, "http://127.0.0.1:8081", "http://127.0.0.1:8081", false},
	} {
		h := make(http.Header)
		ok := tc.d.Answer(h, tc.origin)
		if ok != (tc.value != "") || h.Get("Access-Control-Allow-Origin") != tc.value ||
			(h.Get("Access-Control-Allow-Credentials") == "true") != tc.credentials || !ok && len(h) > 0 {
			t.Errorf("%s: %v %v", tc.origin, ok, h)
		}
	}
	h := make(http.Header)
	if !d.Preflight(h, "https://app.example.org", "PATCH", []string{"content-type, If-Match,x-tenant"}) {
		t.Fatal("refused")
	}
	for name, part := range map[string]string{
		"Access-Control-Allow-Headers": "nearside-bookmark, ", "Access-Control-Allow-Methods": "PATCH", "Access-Control-Max-Age": "3600",
	} {
		if !strings.Contains(h.Get(name), part) {
			t.Errorf("%s: %s", name, h.Get(name))
		}
	}
	for what, f := range map[string]func(http.Header) bool{
		"origin": func(h http.Header) bool { return d.Preflight(h, "https://evil.example", "GET", nil) },
		"method": func(h http.Header) bool { return d.Preflight(h, "https://app.example.org", "CONNECT", nil) },
		"header": func(h http.Header) bool { return d.Preflight(h, "https://app.example.org", "GET", []string{"x-other"}) },
		"headers": func(h http.Header) bool {
			return d.Preflight(h, "https://app.example.org", "GET", []string{strings.Repeat("accept,", 2000)})
		},
	} {
		if h := make(http.Header); f(h) || len(h) > 0 {
			t.Errorf("%s: allowed, %v", what, h)
		}
	}
}

func FuzzOrigin(f *testing.F) {
	for _, s := range []string{"https://*.example.org:8443", "http://[::1]:8080", "*", "a://b/c"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		once, err := Origin(text)
		if err != nil {
			return
		}
		if twice, err := Origin(once); err != nil || twice != once {
			t.Errorf("%q is %q and then %q, %v", text, once, twice, err)
		}
		if once != Any && !strings.Contains(once, "*") && !NewDecider(Policy{Origins: []string{once}}, nil).Answer(make(http.Header), once) {
			t.Errorf("%q is not allowed", once)
		}
	})
}
