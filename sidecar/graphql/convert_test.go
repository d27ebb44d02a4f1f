package graphql

import (
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"math"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"connectrpc.com/connect"
	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/dynamicpb"
)

// kinds is a file with a message that has fields of all kinds, and a service that answers what it is sent.
const kinds = `
name: "acme/kinds/v1/kinds.proto" package: "acme.kinds.v1" syntax: "proto3"
dependency: "google/protobuf/timestamp.proto" dependency: "google/protobuf/duration.proto" dependency: "google/protobuf/struct.proto"
dependency: "google/protobuf/wrappers.proto" dependency: "google/protobuf/field_mask.proto"
enum_type { name: "Color" value { name: "COLOR_UNSPECIFIED" number: 0 } value { name: "COLOR_RED" number: 1 } }
enum_type { name: "Odd" value { name: "NONE" number: 0 } value { name: "true" number: 1 } }
message_type { name: "Nothing" }
message_type { name: "Query" field { name: "text" number: 1 type: TYPE_STRING label: LABEL_OPTIONAL } }
message_type {
  name: "Kinds"
  field { name: "i32" number: 1 type: TYPE_INT32 label: LABEL_OPTIONAL }
  field { name: "i64" number: 2 type: TYPE_INT64 label: LABEL_OPTIONAL }
  field { name: "u32" number: 3 type: TYPE_UINT32 label: LABEL_OPTIONAL }
  field { name: "u64" number: 4 type: TYPE_UINT64 label: LABEL_OPTIONAL }
  field { name: "f" number: 5 type: TYPE_FLOAT label: LABEL_OPTIONAL }
  field { name: "d" number: 6 type: TYPE_DOUBLE label: LABEL_OPTIONAL }
  field { name: "b" number: 7 type: TYPE_BOOL label: LABEL_OPTIONAL }
  field { name: "s" number: 8 type: TYPE_STRING label: LABEL_OPTIONAL }
  field { name: "raw" number: 9 type: TYPE_BYTES label: LABEL_OPTIONAL }
  field { name: "color" number: 10 type: TYPE_ENUM type_name: ".acme.kinds.v1.Color" label: LABEL_OPTIONAL }
  field { name: "odd" number: 11 type: TYPE_ENUM type_name: ".acme.kinds.v1.Odd" label: LABEL_OPTIONAL }
  field { name: "at" number: 12 type: TYPE_MESSAGE type_name: ".google.protobuf.Timestamp" label: LABEL_OPTIONAL }
  field { name: "took" number: 13 type: TYPE_MESSAGE type_name: ".google.protobuf.Duration" label: LABEL_OPTIONAL }
  field { name: "any_value" number: 14 type: TYPE_MESSAGE type_name: ".google.protobuf.Value" label: LABEL_OPTIONAL }
  field { name: "object" number: 15 type: TYPE_MESSAGE type_name: ".google.protobuf.Struct" label: LABEL_OPTIONAL }
  field { name: "wrapped" number: 16 type: TYPE_MESSAGE type_name: ".google.protobuf.StringValue" label: LABEL_OPTIONAL }
  field { name: "mask" number: 17 type: TYPE_MESSAGE type_name: ".google.protobuf.FieldMask" label: LABEL_OPTIONAL }
  field { name: "nothing" number: 18 type: TYPE_MESSAGE type_name: ".acme.kinds.v1.Nothing" label: LABEL_OPTIONAL }
  field { name: "list" number: 19 type: TYPE_STRING label: LABEL_REPEATED }
  field { name: "self" number: 20 type: TYPE_MESSAGE type_name: ".acme.kinds.v1.Kinds" label: LABEL_OPTIONAL }
  field { name: "selves" number: 21 type: TYPE_MESSAGE type_name: ".acme.kinds.v1.Kinds" label: LABEL_REPEATED }
  field { name: "labels" number: 22 type: TYPE_MESSAGE type_name: ".acme.kinds.v1.Kinds.LabelsEntry" label: LABEL_REPEATED }
  field { name: "by_id" number: 23 type: TYPE_MESSAGE type_name: ".acme.kinds.v1.Kinds.ByIdEntry" label: LABEL_REPEATED }
  field { name: "left" number: 24 type: TYPE_STRING label: LABEL_OPTIONAL oneof_index: 0 }
  field { name: "right" number: 25 type: TYPE_INT32 label: LABEL_OPTIONAL oneof_index: 0 }
  field { name: "maybe" number: 26 type: TYPE_INT32 label: LABEL_OPTIONAL oneof_index: 1 proto3_optional: true }
  field { name: "query" number: 27 type: TYPE_MESSAGE type_name: ".acme.kinds.v1.Query" label: LABEL_OPTIONAL }
  oneof_decl { name: "side" } oneof_decl { name: "_maybe" }
  nested_type { name: "LabelsEntry" options { map_entry: true }
    field { name: "key" number: 1 type: TYPE_STRING label: LABEL_OPTIONAL } field { name: "value" number: 2 type: TYPE_STRING label: LABEL_OPTIONAL } }
  nested_type { name: "ByIdEntry" options { map_entry: true }
    field { name: "key" number: 1 type: TYPE_INT64 label: LABEL_OPTIONAL }
    field { name: "value" number: 2 type: TYPE_MESSAGE type_name: ".acme.kinds.v1.Kinds" label: LABEL_OPTIONAL } }
}
service { name: "KindsService"
  method { name: "EchoKinds" input_type: ".acme.kinds.v1.Kinds" output_type: ".acme.kinds.v1.Kinds" options { idempotency_level: NO_SIDE_EFFECTS } }
}`

func kindsService(tb testing.TB) protoreflect.ServiceDescriptor {
	tb.Helper()
	var file descriptorpb.FileDescriptorProto
	if err := prototext.Unmarshal([]byte(kinds), &file); err != nil {
		tb.Fatal(err)
	}
	d, err := protodesc.NewFile(&file, protoregistry.GlobalFiles)
	if err != nil {
		tb.Fatal(err)
	}
	return d.Services().Get(0)
}

// fixed is a source that does not change.
type fixed []Service

func (f fixed) Version() string     { return "1" }
func (f fixed) Services() []Service { return f }

// echoing answers a call with what it was sent.
func echoing(calls *atomic.Int64) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		calls.Add(1)
		body, err := io.ReadAll(r.Body)
		if err != nil {
			panic(err)
		}
		_, _ = w.Write(body)
	})
}

func handlerOf(tb testing.TB, next http.Handler, services ...Service) http.Handler {
	tb.Helper()
	h, err := New(Options{
		Source: fixed(services), Next: next, Logger: slog.New(slog.DiscardHandler), Registerer: prometheus.NewRegistry(),
	})
	if err != nil {
		tb.Fatal(err)
	}
	return h
}

func post(tb testing.TB, h http.Handler, query, variables string) (int, string) {
	tb.Helper()
	body, err := json.Marshal(map[string]any{"query": query, "variables": json.RawMessage(variables)})
	if err != nil {
		tb.Fatal(err)
	}
	r := httptest.NewRequestWithContext(context.Background(), http.MethodPost, Path, strings.NewReader(string(body)))
	r.Header.Set("Content-Type", typeJSON)
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w.Code, w.Body.String()
}

// TestKinds sends values of all kinds there and back, written in the query and as variables.
func TestKinds(t *testing.T) {
	var calls atomic.Int64
	h := handlerOf(t, echoing(&calls), Service{Descriptor: kindsService(t)})
	const fields = `i32 i64 u32 u64 f d b s raw color odd at took anyValue object wrapped mask nothing list left right maybe
		self { i32 } selves { i32 } labels { key value } byId { key value { s } } query { text }`
	for _, tc := range []struct{ name, literal, variables, want string }{
		{
			"nothing", ``, `{}`,
			`{"i32":0,"i64":"0","u32":"0","u64":"0","f":0,"d":0,"b":false,"s":"","raw":"","color":"UNSPECIFIED","odd":"NONE","at":null,"took":null,` +
				`"anyValue":null,"object":null,"wrapped":null,"mask":null,"nothing":null,"list":[],"left":null,"right":null,"maybe":null,"self":null,` +
				`"selves":[],"labels":[],"byId":[],"query":null}`,
		},
		{
			"all", `i32: -5, i64: "-9007199254740993", u32: 4294967295, u64: "18446744073709551615", f: 1.5, d: 1e300, b: true, s: "a\n\"\u00e9", raw: "AQID",
				color: RED, odd: NONE, at: "2026-01-02T03:04:05.6Z", took: "1.5s", anyValue: [1, {a: null}], object: {a: 1, b: "x"}, wrapped: "w", mask: "a,bC",
				nothing: true, list: ["x", "y"], left: "l", maybe: 0, self: {i32: 1}, selves: [{i32: 2}, {}], labels: [{key: "k", value: "v"}, {key: "a", value: ""}],
				byId: [{key: 10, value: {s: "ten"}}, {key: "9", value: {}}], query: {text: "q"}`,
			`{"i32":-5,"i64":"-9007199254740993","u32":4294967295,"u64":"18446744073709551615","f":1.5,"d":1e300,"b":true,"s":"a\n\"é","raw":"AQID",
				"color":"RED","odd":"NONE","at":"2026-01-02T03:04:05.6Z","took":"1.5s","anyValue":[1,{"a":null}],"object":{"a":1,"b":"x"},"wrapped":"w",
				"mask":"a,bC","nothing":true,"list":["x","y"],"left":"l","maybe":0,"self":{"i32":1},"selves":[{"i32":2},{}],
				"labels":[{"key":"k","value":"v"},{"key":"a","value":""}],"byId":[{"key":10,"value":{"s":"ten"}},{"key":"9","value":{}}],"query":{"text":"q"}}`,
			`{"i32":-5,"i64":"-9007199254740993","u32":"4294967295","u64":"18446744073709551615","f":1.5,"d":1e+300,"b":true,"s":"a\n\"é","raw":"AQID",` +
				`"color":"RED","odd":"NONE","at":"2026-01-02T03:04:05.600Z","took":"1.500s","anyValue":[1,{"a":null}],"object":{"a":1,"b":"x"},"wrapped":"w",` +
				`"mask":"a,bC","nothing":true,"list":["x","y"],"left":"l","right":null,"maybe":0,"self":{"i32":1},"selves":[{"i32":2},{"i32":0}],` +
				`"labels":[{"key":"a","value":""},{"key":"k","value":"v"}],"byId":[{"key":"9","value":{"s":""}},{"key":"10","value":{"s":"ten"}}],"query":{"text":"q"}}`,
		},
		{"one is a list of one", `list: "x"`, `{"list":"x"}`, ""},
	} {
		want := `{"data":{"echoKinds":` + tc.want + `}}`
		args := ""
		if tc.literal != "" {
			args = "(" + tc.literal + ")"
		}
		status, got := post(t, h, `{ echoKinds`+args+` { `+fields+` } }`, `{}`)
		if status != 200 || tc.want != "" && got != want {
			t.Errorf("%s:\n%s", tc.name, cmp.Diff(want, got))
		}
		// The same as variables, one for each argument.
		var values map[string]json.RawMessage
		if err := json.Unmarshal([]byte(tc.variables), &values); err != nil {
			t.Fatal(err)
		}
		s := build(t, []Service{{Descriptor: kindsService(t)}})
		var declared, passed []string
		for _, a := range s.objects[rootQuery].fields["echoKinds"].args {
			if _, ok := values[a.name]; ok {
				declared = append(declared, "$"+a.name+": "+a.typeText)
				passed = append(passed, a.name+": $"+a.name)
			}
		}
		if len(declared) == 0 {
			continue
		}
		status, got = post(t, h, `query (`+strings.Join(declared, ", ")+`) { echoKinds(`+strings.Join(passed, ", ")+`) { `+fields+` } }`, tc.variables)
		if status != 200 || tc.want != "" && got != want {
			t.Errorf("%s, as variables:\n%s", tc.name, cmp.Diff(want, got))
		}
	}
}

// TestBadInput has each refusal name what is wrong, and come to no call.
func TestBadInput(t *testing.T) {
	var calls atomic.Int64
	h := handlerOf(t, echoing(&calls), Service{Descriptor: kindsService(t)})
	for field, args := range map[string]string{
		"u32":               `u32: 4294967296`,
		"i64":               `i64: "x"`,
		"u64":               `u64: -1`,
		"raw":               `raw: "?"`,
		"at":                `at: "yesterday"`,
		"took":              `took: 1`,
		"right":             `left: "l", right: 1`,
		"labels[1].key":     `labels: [{key: "a"}, {key: "a"}]`,
		"selves[1].u64":     `selves: [{}, {u64: "x"}]`,
		"byId[0].value.i64": `byId: [{key: 1, value: {i64: 1.5}}]`,
		"object":            `object: [1]`,
	} {
		_, got := post(t, h, `{ echoKinds(`+args+`) { s } }`, `{}`)
		if !strings.Contains(got, `"field":"`+field+`"`) || !strings.Contains(got, `"reason":"FIELD_INVALID"`) {
			t.Errorf("%s: %s", args, got)
		}
	}
	for variables, field := range map[string]string{
		`{"k":{"i32":"5"}}`: "variables.k.i32", `{"k":{"i32":2147483648}}`: "variables.k.i32", `{"k":{"nope":1}}`: "variables.k.nope",
		`{"k":[1]}`: "variables.k", `{"k":{"color":"red"}}`: "variables.k.color", `{"k":{"selves":[{"b":"yes"}]}}`: "variables.k.selves[0].b",
		`{"k":{"s":5}}`: "variables.k.s", `{}`: "variables.k", `{"k":null}`: "variables.k",
	} {
		_, got := post(t, h, `query ($k: KindsInput!) { echoKinds(self: $k) { s } }`, variables)
		if !strings.Contains(got, `"field":"`+field+`"`) {
			t.Errorf("%s: %s", variables, got)
		}
	}
	if n := calls.Load(); n != 0 {
		t.Errorf("%d calls", n)
	}
}

// TestValuesThatGraphQLHasNot has what cannot be told be an error of its field, and of the next one around it that may be null.
func TestValuesThatGraphQLHasNot(t *testing.T) {
	d := kindsService(t)
	m := dynamicpb.NewMessage(d.Methods().Get(0).Output())
	set := func(m protoreflect.Message, name string, v any) {
		m.Set(m.Descriptor().Fields().ByName(protoreflect.Name(name)), protoreflect.ValueOf(v))
	}
	set(m, "s", "well")
	self := m.Mutable(m.Descriptor().Fields().ByName("self")).Message()
	set(self, "d", math.NaN())
	set(self, "color", protoreflect.EnumNumber(7))
	body, err := proto.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	h := handlerOf(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(body) }), Service{Descriptor: d})
	status, got := post(t, h, `{ echoKinds { s self { i32 d } } other: echoKinds { self { color } } }`, `{}`)
	const want = `"data":{"echoKinds":{"s":"well","self":null},"other":{"self":null}}`
	if status != 200 || !strings.Contains(got, want) || strings.Count(got, reasonValue) != 2 || !strings.Contains(got, `"path":["echoKinds","self","d"]`) {
		t.Errorf("%d %s", status, got)
	}
}

// TestNames has services that want the same names.
func TestNames(t *testing.T) {
	var other descriptorpb.FileDescriptorProto
	text := strings.ReplaceAll(strings.ReplaceAll(kinds, "acme.kinds.v1", "acme.other.v1"), "acme/kinds/v1", "acme/other/v1")
	if err := prototext.Unmarshal([]byte(text), &other); err != nil {
		t.Fatal(err)
	}
	d, err := protodesc.NewFile(&other, protoregistry.GlobalFiles)
	if err != nil {
		t.Fatal(err)
	}
	sdl := build(t, []Service{{Descriptor: kindsService(t)}, {Descriptor: d.Services().Get(0)}}).SDL()
	for _, line := range []string{
		"  echoKinds(", "  kindsEchoKinds(", "type Kinds {", "type AcmeOtherV1Kinds {", "type AcmeKindsV1Query {", "enum Odd {\n  NONE\n}",
	} {
		if !strings.Contains(sdl, line) {
			t.Errorf("no %q", line)
		}
	}
}

// TestNoServices has a schema in which there is nothing to ask for.
func TestNoServices(t *testing.T) {
	h := handlerOf(t, http.NotFoundHandler())
	if status, got := post(t, h, `{ empty __typename }`, `{}`); status != 200 || got != `{"data":{"empty":null,"__typename":"Query"}}` {
		t.Errorf("%d %s", status, got)
	}
	if status, got := post(t, h, `mutation { empty }`, `{}`); status != 400 {
		t.Errorf("%d %s", status, got)
	}
}

// TestIntrospectionPolicy asks for the schema, and for the name of a type, which is no part of it, under each policy.
func TestIntrospectionPolicy(t *testing.T) {
	d := kindsService(t)
	for _, tc := range []struct {
		policy        Introspection
		known, nobody bool // whether they are told
	}{
		{"", true, false}, {IntrospectionKnown, true, false}, {IntrospectionEverybody, true, true}, {IntrospectionNobody, false, false},
	} {
		isKnown := true
		h, err := New(Options{
			Source: fixed{{Descriptor: d, Public: true}}, Next: http.NotFoundHandler(), Introspection: tc.policy,
			Known:  func(http.Header) (bool, error) { return isKnown, nil },
			Logger: slog.New(slog.DiscardHandler), Registerer: prometheus.NewRegistry(),
		})
		if err != nil {
			t.Fatal(err)
		}
		for known, told := range map[bool]bool{true: tc.known, false: tc.nobody} {
			isKnown = known
			for _, query := range []string{`{ __schema { queryType { name } } }`, `{ ...f } fragment f on Query { __type(name: "Kinds") { name } }`} {
				if _, got := post(t, h, query, `{}`); strings.Contains(got, reasonIntrospection) == told || strings.Contains(got, `"data"`) != told {
					t.Errorf("%q, known %t: %s", tc.policy, known, got)
				}
			}
			if _, got := post(t, h, `{ echoKind { text } }`, `{}`); strings.Contains(got, "Did you mean") != told || !strings.Contains(got, `\"echoKind\" on type \"Query\".`) {
				t.Errorf("%q, known %t: %s", tc.policy, known, got)
			}
			if status, got := post(t, h, `{ __typename }`, `{}`); status != 200 || got != `{"data":{"__typename":"Query"}}` {
				t.Errorf("%q, known %t: %d %s", tc.policy, known, status, got)
			}
		}
	}
}

// TestErrors reads the errors of calls as they come.
func TestErrors(t *testing.T) {
	for _, tc := range []struct {
		status     int
		body, want string
	}{
		{404, `{"code":"not_found","message":"no"}`, `"message":"no","locations":[{"line":1,"column":3}],"path":["echoKinds"],"extensions":{"code":"not_found"}`},
		{429, "too many requests", `"extensions":{"code":"unavailable"}`},
		{500, "", `"extensions":{"code":"unknown"}`},
		{503, `{"code":"who knows","message":"m"}`, `"extensions":{"code":"unavailable"}`},
		{200, "\xff\xff", `"message":"internal error"`},
	} {
		h := handlerOf(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(tc.status)
			_, _ = w.Write([]byte(tc.body))
		}), Service{Descriptor: kindsService(t)})
		if _, got := post(t, h, `{ echoKinds { s } }`, `{}`); !strings.Contains(got, tc.want) || !strings.Contains(got, `"data":{"echoKinds":null}`) {
			t.Errorf("%d %q: %s", tc.status, tc.body, got)
		}
	}
	h := handlerOf(t, http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic("no") }), Service{Descriptor: kindsService(t)})
	if _, got := post(t, h, `{ echoKinds { s } }`, `{}`); !strings.Contains(got, `"code":"`+connect.CodeUnavailable.String()) {
		t.Errorf("a panic: %s", got)
	}
}

// FuzzRequest has requests of all kinds be answered, with JSON that is well formed.
func FuzzRequest(f *testing.F) {
	for _, seed := range [][2]string{
		{`{ user(id: "1") { id orders { user { name } } } }`, `{}`},
		{`query a($k: ConsistencyInput) { dataQuery(database: "d", statement: {sql: "x", parameters: [{integer: 1}]}, consistency: $k) { __typename } }`, `{"k":{"level":"ANY"}}`},
		{`fragment f on User { ...f } { users { ...f } }`, ``},
		{`{ __schema { types { fields { type { ofType { name } } } } } }`, `null`},
		{`mutation { createUser(email: "a", name: "b") { id @skip(if: true) } }`, `{"a":[{}]}`},
		{`subscription { dataWatch(database: "d", table: "t", equal: [{key: "a", value: {null: NULL_VALUE}}]) { __typename } }`, `{}`},
		{`{ a: users(pageSize: 1000000000000) { id } ... on Query { users { id } } }`, `{}`},
	} {
		f.Add(seed[0], seed[1])
	}
	next := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusOK) })
	h := handlerOf(f, next, services(f)...)
	f.Fuzz(func(t *testing.T, query, variables string) {
		body, err := json.Marshal(map[string]any{"query": query})
		if err != nil {
			t.Skip()
		}
		if json.Valid([]byte(variables)) {
			body = []byte(`{"query":` + string(body[len(`{"query":`):len(body)-1]) + `,"variables":` + variables + `}`)
		}
		for _, accept := range []string{typeResponse, typeEvents} {
			r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, Path, strings.NewReader(string(body)))
			r.Header.Set("Content-Type", typeJSON)
			r.Header.Set("Accept", accept)
			w := httptest.NewRecorder()
			h.ServeHTTP(w, r)
			if accept == typeResponse && !json.Valid(w.Body.Bytes()) {
				t.Errorf("%q %q: %s", query, variables, w.Body)
			}
		}
	})
}

// BenchmarkUser is what GraphQL adds to a call.
func BenchmarkUser(b *testing.B) {
	h := handlerOf(b, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusOK) }), services(b)...)
	b.ReportAllocs()
	for b.Loop() {
		if status, _ := post(b, h, `query ($id: ID!) { user(id: $id) { id name email } }`, `{"id":"usr_1"}`); status != http.StatusOK {
			b.Fatal(status)
		}
	}
}
