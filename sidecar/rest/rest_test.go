package rest

import (
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/reflect/protoreflect"

	authv1 "github.com/nearside-dev/nearside/gen/nearside/auth/v1"
	businessv1 "github.com/nearside-dev/nearside/gen/nearside/business/v1"
	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
)

func services() []protoreflect.ServiceDescriptor {
	return []protoreflect.ServiceDescriptor{
		authv1.File_nearside_auth_v1_auth_service_proto.Services().Get(0),
		businessv1.File_nearside_business_v1_user_service_proto.Services().Get(0),
		businessv1.File_nearside_business_v1_order_service_proto.Services().Get(0),
		datav1.File_nearside_data_v1_data_service_proto.Services().Get(0),
	}
}

func bindings(tb testing.TB) []*Binding {
	tb.Helper()
	all, err := BindingsOf(services())
	if err != nil {
		tb.Fatal(err)
	}
	return all
}

func TestFind(t *testing.T) {
	all := bindings(t)
	for _, c := range []struct{ verb, path, method string }{
		{"GET", "/v1/users", "ListUsers"},
		{"POST", "/v1/users", "CreateUser"},
		{"GET", "/v1/users/usr_1", "GetUser"},
		{"PUT", "/v1/users/usr_1", "ReplaceUser"},
		{"PATCH", "/v1/users/usr_1", "UpdateUser"},
		{"DELETE", "/v1/users/usr_1", "DeleteUser"},
		{"GET", "/v1/users/usr_1/orders", "ListOrders"},
		{"POST", "/v1/databases/d:query", "Query"},
		{"GET", "/v1/databases/d", "GetDatabase"},
		{"POST", "/v1/databases/d/tables/t:batchGet", "BatchGet"},
		{"POST", "/v1/auth:authenticate", "Authenticate"},
		{"POST", "/v1/users/usr_1", ""},
		{"GET", "/v1/users/", ""},
		{"GET", "/v1/users/a/b", ""},
		{"POST", "/v1/databases/d:nothing", ""},
		{"GET", "/v1/", ""},
	} {
		b, _ := find(all, c.verb, c.path)
		switch {
		case b == nil && c.method != "":
			t.Errorf("%s %s is bound to nothing", c.verb, c.path)
		case b != nil && string(b.Method.Name()) != c.method:
			t.Errorf("%s %s is bound to %s, want %q", c.verb, c.path, b.Method.Name(), c.method)
		}
	}
	if _, allowed := find(all, "POST", "/v1/users/usr_1"); !slices.Equal(allowed, []string{"DELETE", "GET", "PATCH", "PUT"}) {
		t.Errorf("allowed %v", allowed)
	}
}

// TestTemplates holds all rules against each other: no request may have two meanings, and each variable is a field.
func TestTemplates(t *testing.T) {
	seen := make(map[string]string)
	for _, b := range bindings(t) {
		key := b.Verb + " " + variable.ReplaceAllString(b.Template, "*")
		if other := seen[key]; other != "" {
			t.Errorf("%s means %s and %s", key, other, b.Method.FullName())
		}
		seen[key] = string(b.Method.FullName())
		if !strings.HasPrefix(b.Template, Prefix) {
			t.Errorf("%s is not below %s", b.Template, Prefix)
		}
		for _, v := range b.Vars {
			if b.Method.Input().Fields().ByName(protoreflect.Name(v)) == nil {
				t.Errorf("%s: %s is no field of %s", b.Template, v, b.Method.Input().FullName())
			}
		}
		if b.Verb == http.MethodGet && !safe(b) {
			t.Errorf("%s is a GET that has side effects", b.Method.FullName())
		}
	}
}

func TestParameter(t *testing.T) {
	all := bindings(t)
	list, _ := find(all, "GET", "/v1/users")
	get, _ := find(all, "GET", "/v1/users/u")
	databases, _ := find(all, "GET", "/v1/databases")
	create, _ := find(all, "POST", "/v1/users")
	for _, c := range []struct {
		b    *Binding
		name string
		ok   bool
	}{
		{list, "page_size", true},
		{list, "pageSize", true},
		{list, "size", false},
		{list, "page_size.x", false},
		{list, "", false},
		{get, "id", false},
		{databases, "consistency.level", true},
		{databases, "consistency.nothing", false},
		{create, "email", false},
	} {
		if _, _, err := c.b.parameter(c.name); (err == nil) != c.ok {
			t.Errorf("%s %s?%s: %v", c.b.Verb, c.b.Template, c.name, err)
		}
	}
}

func TestFields(t *testing.T) {
	list, _ := find(bindings(t), "GET", "/v1/users")
	body := `{"users":[{"id":"a","email":"x","version":"9007199254740993"},{"id":"b"}],"nextPageToken":"t"}`
	for _, c := range []struct{ fields, want string }{
		{"nextPageToken", `{"nextPageToken":"t"}`},
		{"next_page_token,users.id", `{"nextPageToken":"t","users":[{"id":"a"},{"id":"b"}]}`},
		{"users.version", `{"users":[{"version":"9007199254740993"},{}]}`},
		{"users", `{"users":[{"id":"a","email":"x","version":"9007199254740993"},{"id":"b"}]}`},
		{"users.createTime.seconds", ""},
		{"users.nothing", ""},
		{"", ""},
	} {
		tree, err := list.parseFields(strings.Split(c.fields, ","))
		if err != nil {
			if c.want != "" {
				t.Errorf("%s: %v", c.fields, err)
			}
			continue
		}
		if got := string(tree.pick([]byte(body))); got != c.want {
			t.Errorf("%s: %s, want %s", c.fields, got, c.want)
		}
	}
}

func TestMatches(t *testing.T) {
	for _, c := range []struct {
		header, tag string
		want        bool
	}{
		{`"1"`, `"1"`, true},
		{`"2"`, `"1"`, false},
		{`W/"1", "x"`, `"1"`, true},
		{`"x", W/"1"`, `W/"1"`, true},
		{`*`, `"1"`, true},
		{``, `"1"`, false},
	} {
		if got := matches([]string{c.header}, c.tag); got != c.want {
			t.Errorf("%s, %s: %v", c.header, c.tag, got)
		}
	}
}

func TestAcceptsJSON(t *testing.T) {
	for header, want := range map[string]bool{
		"": true, "*/*": true, "application/json": true, "application/*": true, "text/html": false, "text/html, */*;q=0.1": true,
		"application/json;q=0, */*": false, "application/json;q=0.0": false, "*/*;q=0": false, "application/json, */*;q=0": true,
		"application/*;q=0, */*": false, "APPLICATION/JSON; charset=utf-8": true, "application/problem+json": true, "application/json;q=nonsense": false,
	} {
		if got := acceptsJSON([]string{header}); got != want {
			t.Errorf("%q: %v", header, got)
		}
	}
	if !acceptsJSON(nil) || !acceptsJSON([]string{"text/html", "application/json"}) {
		t.Error("no header, or one in two lines")
	}
}

func FuzzFind(f *testing.F) {
	for _, seed := range []string{"/v1/users/u", "/v1/databases/d:query", "/v1/%2f", "/v1/users/\x00", "//", ""} {
		f.Add("GET", seed, "page_size")
	}
	all := bindings(f)
	f.Fuzz(func(t *testing.T, verb, path, parameter string) {
		b, allowed := find(all, verb, path)
		if b == nil {
			return
		}
		if !slices.Contains(allowed, verb) {
			t.Errorf("%s is bound and not allowed", verb)
		}
		if _, field, err := b.parameter(parameter); err == nil {
			_ = wanted(field)
		}
	})
}

func FuzzFields(f *testing.F) {
	f.Add("users.id,nextPageToken", `{"users":[{"id":"a"}]}`)
	f.Add("users.id", `{"users":[[{"id":1}],null,3]}`)
	f.Add("users", `{`)
	list, _ := find(bindings(f), "GET", "/v1/users")
	f.Fuzz(func(t *testing.T, fields, body string) {
		tree, err := list.parseFields(strings.Split(fields, ","))
		if err != nil {
			return
		}
		if out := tree.pick([]byte(body)); json.Valid([]byte(body)) && !json.Valid(out) {
			t.Errorf("%s of %s: %s", fields, body, out)
		}
	})
}
