package cli

import (
	"strings"
	"testing"
)

func TestReadPolicyTest(t *testing.T) {
	good, err := readPolicyTest([]byte(`
policies:
  b: permit (principal, action, resource);
  a: forbid (principal, action, resource);
without: [old]
cases:
  - {account: ann, action: read, resource: shop/items, expect: allow, policy: b}
  - {account: ann, action: read, expect: deny}
`))
	if err != nil {
		t.Fatal(err)
	}
	req := good.request()
	if p := req.GetPolicies(); len(p) != 2 || p[0].GetName() != "a" || p[1].GetName() != "b" || req.GetWithout()[0] != "old" {
		t.Errorf("got %v", req)
	}
	if q := req.GetQuestions(); len(q) != 2 || q[0].GetDatabase() != "shop" || q[0].GetTable() != "items" || q[1].GetDatabase() != "" {
		t.Errorf("got %v", q)
	}
	for text, want := range map[string]string{
		"":                      "there are none",
		"cases: []":             "there are none",
		"policies: {}":          "there are none",
		"case: []":              "field case not found",
		"cases: 3":              "cannot unmarshal",
		"cases: [{action: a}]":  "cases[0].account",
		"cases: [{account: a}]": "cases[0].action",
		"cases: [{account: a, action: b, expect: c}]": "cases[0].expect",
		"\x00": "control characters",
	} {
		if _, err := readPolicyTest([]byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
}

func FuzzPolicyTest(f *testing.F) {
	f.Add([]byte("cases:\n  - {account: a, action: read, resource: x/y, expect: allow}\n"))
	f.Add([]byte("policies: {a: b}\ncases: &x [*x]"))
	f.Fuzz(func(_ *testing.T, text []byte) {
		if p, err := readPolicyTest(text); err == nil {
			p.request()
		}
	})
}
