package rest

import (
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"
)

// serviceWith returns a service whose methods, M0 and on, have HTTP rules.
func serviceWith(t *testing.T, name string, rules ...string) Service {
	t.Helper()
	var text strings.Builder
	text.WriteString(`name: "` + name + `.proto" package: "` + name + `" syntax: "proto3" dependency: "google/api/annotations.proto"
		message_type { name: "In" field { name: "name" number: 1 type: TYPE_STRING label: LABEL_OPTIONAL } field { name: "id" number: 2 type: TYPE_STRING label: LABEL_OPTIONAL } }
		service { name: "S" `)
	for i, r := range rules {
		text.WriteString(`method { name: "M` + string(rune('0'+i)) + `" input_type: ".` + name + `.In" output_type: ".` + name + `.In" options { [google.api.http] { ` + r + ` } } } `)
	}
	text.WriteString(`}`)
	var file descriptorpb.FileDescriptorProto
	if err := prototext.Unmarshal([]byte(text.String()), &file); err != nil {
		t.Fatal(err)
	}
	d, err := protodesc.NewFile(&file, protoregistry.GlobalFiles)
	if err != nil {
		t.Fatal(err)
	}
	return Service{Descriptor: d.Services().Get(0), Comments: map[protoreflect.FullName]string{}}
}

func TestTable(t *testing.T) {
	var skipped []string
	table := newTable("1", bindings(t), []Service{
		serviceWith(t, "a.v1", `get: "/a/{id}"`, `post: "/a/{id}:do" body: "*"`, `get: "/a/{name=shelves/*/books/*}"`, `get: "/a/special"`),
		serviceWith(t, "b.v1", `get: "/a/{name}"`, `get: "/b/{name=**}"`, `delete: "/a/{id}"`),
		serviceWith(t, "c.v1", `get: "/v1/users/{id}"`, `get: "/graphql"`, `get: "/a.v1.S/M0"`, `get: "/{id}"`),
		serviceWith(t, "d.v1", `get: "/d/{nothing}"`),
		serviceWith(t, "e.v1", `get: "/e/{id}" response_body: "nothing"`),
	}, http.NotFoundHandler(), func(service string, err error) { skipped = append(skipped, service+": "+err.Error()) })
	for _, c := range []struct{ verb, path, method string }{
		{"GET", "/a/1", "a.v1.S.M0"},
		{"POST", "/a/1:do", "a.v1.S.M1"},
		{"GET", "/a/shelves/1/books/2", "a.v1.S.M2"},
		{"GET", "/a/shelves/1", ""},
		{"GET", "/a/special", "a.v1.S.M3"},
		{"DELETE", "/a/1", "b.v1.S.M2"},
		{"GET", "/b/x/y/z", "b.v1.S.M1"},
		{"GET", "/v1/users/1", "nearside.business.v1.UserService.GetUser"},
		{"GET", "/graphql", ""},
		{"GET", "/a.v1.S/M0", ""},
		{"GET", "/x", ""},
		{"GET", "/d/1", ""},
		{"GET", "/e/1", ""},
	} {
		b, _ := table.find(c.verb, c.path)
		if b == nil && c.method != "" || b != nil && string(b.Method.FullName()) != c.method {
			t.Errorf("%s %s is bound to %+v, want %q", c.verb, c.path, b, c.method)
		}
	}
	if _, allowed := table.find("PUT", "/a/1"); !slices.Equal(allowed, []string{"DELETE", "GET"}) {
		t.Errorf("allowed %v", allowed)
	}
	if len(skipped) != 6 {
		t.Errorf("skipped %d:\n%s", len(skipped), strings.Join(skipped, "\n"))
	}
	if doc := string(table.documents[1]()); !strings.Contains(doc, `"/a/{id}"`) || !strings.Contains(doc, `"a_v1_S_M0"`) || strings.Contains(string(table.documents[0]()), `"/a/{id}"`) {
		t.Error("the document of those who are known has what is registered, the other one has not")
	}
}

// FuzzCompile has templates of whoever registers a service match what they say, or be refused.
func FuzzCompile(f *testing.F) {
	for _, s := range []string{"/v1/{id}", "/a/{name=b/*/c/**}:do", "/a/{", "/**", "/{a=}", "/\\Q.*", "/{a={b}}"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, template string) {
		re, vars, err := compile(template)
		if err != nil {
			return
		}
		b := &Binding{Template: template, pattern: re, Vars: vars}
		_ = b.head()
		if b.literal() == len(template) && !re.MatchString(template) && !strings.ContainsAny(template, "\n") && regexp.QuoteMeta(template) == template {
			t.Errorf("%q does not match itself", template)
		}
	})
}
