package rest

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"google.golang.org/genproto/googleapis/api/annotations"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"

	authv1 "github.com/nearside-dev/nearside/gen/nearside/auth/v1"
	"github.com/nearside-dev/nearside/internal/descriptors"
)

var update = flag.Bool("update", false, "write docs/openapi.json")

const documentFile = "../../docs/openapi.json"

func ownDocument(all []*Binding) ([]byte, error) {
	comments, err := descriptors.Comments()
	if err != nil {
		return nil, err
	}
	return document(all, comments)
}

// TestDocument holds the OpenAPI document against the file that people read and that a validator checks.
func TestDocument(t *testing.T) {
	all, err := BindingsOf(append(services(), authv1.File_nearside_auth_v1_account_service_proto.Services().Get(0)))
	if err != nil {
		t.Fatal(err)
	}
	doc, err := ownDocument(all)
	if err != nil {
		t.Fatal(err)
	}
	doc = append(doc, '\n')
	if *update {
		if err := os.WriteFile(documentFile, doc, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	file, err := os.ReadFile(documentFile)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(doc, file) {
		t.Error("docs/openapi.json is not what the protos say: run make generate")
	}
}

// TestNamesOfSchemas: services may have different messages of one name, and share those that are the same.
func TestNamesOfSchemas(t *testing.T) {
	service := func(name, fields string) protoreflect.ServiceDescriptor {
		t.Helper()
		var file descriptorpb.FileDescriptorProto
		if err := prototext.Unmarshal([]byte(`name: "`+name+`.proto" syntax: "proto3" dependency: "google/api/annotations.proto" dependency: "thing.proto"
			message_type { name: "Problem" }
			service { name: "`+name+`" method { name: "Get" input_type: ".Problem" output_type: ".Thing" options { [google.api.http] { get: "/`+name+`" } } } }`), &file); err != nil {
			t.Fatal(err)
		}
		thing := &descriptorpb.FileDescriptorProto{}
		if err := prototext.Unmarshal([]byte(`name: "thing.proto" syntax: "proto3" message_type { name: "Thing" `+fields+` }`), thing); err != nil {
			t.Fatal(err)
		}
		set := &descriptorpb.FileDescriptorSet{File: []*descriptorpb.FileDescriptorProto{
			protodesc.ToFileDescriptorProto(descriptorpb.File_google_protobuf_descriptor_proto), protodesc.ToFileDescriptorProto(annotations.File_google_api_http_proto),
			protodesc.ToFileDescriptorProto(annotations.File_google_api_annotations_proto), thing, &file,
		}}
		files, err := protodesc.NewFiles(set)
		if err != nil {
			t.Fatal(err)
		}
		d, err := files.FindDescriptorByName(protoreflect.FullName(name))
		if err != nil {
			t.Fatal(err)
		}
		return d.(protoreflect.ServiceDescriptor) //nolint:forcetypeassert // it is one
	}
	a := `field { name: "size" number: 1 type: TYPE_INT32 label: LABEL_OPTIONAL }`
	b := `field { name: "size" number: 1 type: TYPE_STRING label: LABEL_OPTIONAL }`
	all, err := BindingsOf([]protoreflect.ServiceDescriptor{service("a", a), service("b", b), service("c", a)})
	if err != nil {
		t.Fatal(err)
	}
	text, err := document(all, nil)
	if err != nil {
		t.Fatal(err)
	}
	var doc struct {
		Paths map[string]struct {
			Get struct {
				Responses map[string]struct {
					Content map[string]struct {
						Schema struct {
							Ref string `json:"$ref"`
						}
					}
				}
			}
		}
		Components struct {
			Schemas map[string]struct {
				Required   []string
				Properties struct{ Size struct{ Type string } }
			}
		}
	}
	if err := json.Unmarshal(text, &doc); err != nil {
		t.Fatal(err)
	}
	if len(doc.Components.Schemas) != 3 || len(doc.Components.Schemas["Problem"].Required) == 0 {
		t.Errorf("schemas %v", doc.Components.Schemas)
	}
	for path, want := range map[string]string{"/a": "integer", "/b": "string", "/c": "integer"} {
		name := strings.TrimPrefix(doc.Paths[path].Get.Responses["200"].Content["application/json"].Schema.Ref, "#/components/schemas/")
		if got := doc.Components.Schemas[name].Properties.Size.Type; got != want {
			t.Errorf("%s answers %s, whose size is %q, want %q", path, name, got, want)
		}
	}
}

// TestReferences follows each reference of the document, and finds each operation and each part described.
func TestReferences(t *testing.T) {
	text, err := ownDocument(bindings(t))
	if err != nil {
		t.Fatal(err)
	}
	var doc struct {
		Paths      map[string]map[string]struct{ OperationID, Description string }
		Components struct {
			Schemas map[string]struct{ Description string }
		}
	}
	if err := json.Unmarshal(text, &doc); err != nil {
		t.Fatal(err)
	}
	for path, item := range doc.Paths {
		for verb, op := range item {
			if op.Description == "" {
				t.Errorf("%s %s has no description", verb, path)
			}
		}
	}
	for name, s := range doc.Components.Schemas {
		if s.Description == "" && name != "Problem" {
			t.Errorf("%s has no description", name)
		}
	}
	var walk func(any)
	walk = func(v any) {
		switch v := v.(type) {
		case map[string]any:
			if r, ok := v["$ref"].(string); ok {
				const schemas = "#/components/schemas/"
				if name, ok := bytes.CutPrefix([]byte(r), []byte(schemas)); ok {
					if _, there := doc.Components.Schemas[string(name)]; !there {
						t.Errorf("%s is not there", r)
					}
				}
			}
			for _, inner := range v {
				walk(inner)
			}
		case []any:
			for _, inner := range v {
				walk(inner)
			}
		}
	}
	var whole any
	if err := json.Unmarshal(text, &whole); err != nil {
		t.Fatal(err)
	}
	walk(whole)
}

// TestOperations: each has a name of its own, also where a method has two paths, and a title.
func TestOperations(t *testing.T) {
	all := bindings(t)
	list, _ := find(all, "GET", "/v1/users")
	second := *list
	second.Template = "/v1/people"
	third := *list
	third.Template, third.Vars = "/v1/{page_token=shelves/*/books/**}:list", []string{"page_token"}
	text, err := document(append(all, &second, &third), nil)
	if err != nil {
		t.Fatal(err)
	}
	var doc struct {
		Paths map[string]map[string]struct {
			OperationID, Summary string
			Parameters           []struct{ Name, In string }
		}
	}
	if err := json.Unmarshal(text, &doc); err != nil {
		t.Fatal(err)
	}
	ids := make(map[string]string)
	for path, verbs := range doc.Paths {
		for verb, o := range verbs {
			if was, taken := ids[o.OperationID]; taken || o.Summary == "" {
				t.Errorf("%s %s: operation %q, which %q is too; summary %q", verb, path, o.OperationID, was, o.Summary)
			}
			ids[o.OperationID] = path
		}
	}
	if o := doc.Paths["/v1/users:batchGet"]["get"]; o.Summary != "Batch get users" {
		t.Errorf("summary %q", o.Summary)
	}
	parts := doc.Paths["/v1/shelves/{page_token_1}/books/{page_token_2}:list"]["get"].Parameters
	if len(parts) < 3 || parts[0].Name != "page_token_1" || parts[1].Name != "page_token_2" || parts[1].In != "path" || parts[2].In != "query" {
		t.Errorf("a variable of several segments: %v", parts)
	}
	if ids["UserService_ListUsers_2"] == "" {
		t.Errorf("the second path of a method has no operation: %v", ids)
	}
}

// TestDocumentIsValid holds the document against the schema of its version, as https://spec.openapis.org/oas/3.1/schema has it.
func TestDocumentIsValid(t *testing.T) {
	text, err := os.ReadFile("testdata/oas-3.1-schema.json")
	if err != nil {
		t.Fatal(err)
	}
	schema, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	compiler := jsonschema.NewCompiler()
	if err := compiler.AddResource("oas.json", schema); err != nil {
		t.Fatal(err)
	}
	rules, err := compiler.Compile("oas.json")
	if err != nil {
		t.Fatal(err)
	}
	doc, err := ownDocument(bindings(t))
	if err != nil {
		t.Fatal(err)
	}
	valid, err := jsonschema.UnmarshalJSON(bytes.NewReader(doc))
	if err != nil {
		t.Fatal(err)
	}
	if err := rules.Validate(valid); err != nil {
		t.Error(err)
	}
	broken, err := jsonschema.UnmarshalJSON(bytes.NewReader(bytes.ReplaceAll(doc, []byte(`"in": "query"`), []byte(`"in": "body"`))))
	if err != nil {
		t.Fatal(err)
	}
	if rules.Validate(broken) == nil {
		t.Error("a document that is none passes")
	}
}
