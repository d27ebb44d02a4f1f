package graphql

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/dynamicpb"
)

// library is a service whose names say nothing of what refers to what, and shop one whose names do.
const library = `
name: "acme/library/v1/library.proto" package: "acme.library.v1" syntax: "proto3" dependency: "nearside/graphql/v1/annotations.proto"
message_type { name: "Author"
  field { name: "code" number: 1 type: TYPE_STRING label: LABEL_OPTIONAL } field { name: "name" number: 2 type: TYPE_STRING label: LABEL_OPTIONAL } }
message_type { name: "Book"
  field { name: "title" number: 1 type: TYPE_STRING label: LABEL_OPTIONAL }
  field { name: "writer" number: 2 type: TYPE_STRING label: LABEL_OPTIONAL options { [nearside.graphql.v1.reference] { get: "FetchAuthor" name: "author" } } }
  field { name: "helpers" number: 3 type: TYPE_STRING label: LABEL_REPEATED
    options { [nearside.graphql.v1.reference] { get: "acme.library.v1.LibraryService.FetchAuthor" name: "helpedBy" } } }
  field { name: "author_id" number: 4 type: TYPE_STRING label: LABEL_OPTIONAL options { [nearside.graphql.v1.reference] {} } } }
message_type { name: "Shelf"
  field { name: "writer" number: 1 type: TYPE_STRING label: LABEL_OPTIONAL }
  field { name: "volumes" number: 2 type: TYPE_MESSAGE type_name: ".acme.library.v1.Book" label: LABEL_REPEATED } }
message_type { name: "FetchAuthorRequest" field { name: "key" number: 1 type: TYPE_STRING label: LABEL_OPTIONAL } }
message_type { name: "FetchAuthorResponse" field { name: "author" number: 1 type: TYPE_MESSAGE type_name: ".acme.library.v1.Author" label: LABEL_OPTIONAL } }
message_type { name: "FetchAuthorsRequest" field { name: "codes" number: 1 type: TYPE_STRING label: LABEL_REPEATED } }
message_type { name: "FetchAuthorsResponse" field { name: "all" number: 1 type: TYPE_MESSAGE type_name: ".acme.library.v1.Author" label: LABEL_REPEATED } }
message_type { name: "ListAuthorsRequest" }
message_type { name: "ListAuthorsResponse" field { name: "authors" number: 1 type: TYPE_MESSAGE type_name: ".acme.library.v1.Author" label: LABEL_REPEATED } }
message_type { name: "BooksByRequest"
  field { name: "writer" number: 1 type: TYPE_STRING label: LABEL_OPTIONAL } field { name: "page_size" number: 2 type: TYPE_INT32 label: LABEL_OPTIONAL }
  field { name: "after" number: 3 type: TYPE_STRING label: LABEL_OPTIONAL } }
message_type { name: "BooksByResponse" field { name: "found" number: 1 type: TYPE_MESSAGE type_name: ".acme.library.v1.Book" label: LABEL_REPEATED } }
message_type { name: "BooksByManyRequest"
  field { name: "writers" number: 1 type: TYPE_STRING label: LABEL_REPEATED } field { name: "page_size" number: 2 type: TYPE_INT32 label: LABEL_OPTIONAL } }
message_type { name: "BooksByManyResponse" field { name: "shelves" number: 1 type: TYPE_MESSAGE type_name: ".acme.library.v1.Shelf" label: LABEL_REPEATED } }
service { name: "LibraryService"
  method { name: "ListAuthors" input_type: ".acme.library.v1.ListAuthorsRequest" output_type: ".acme.library.v1.ListAuthorsResponse" options { idempotency_level: NO_SIDE_EFFECTS } }
  method { name: "FetchAuthor" input_type: ".acme.library.v1.FetchAuthorRequest" output_type: ".acme.library.v1.FetchAuthorResponse"
    options { idempotency_level: NO_SIDE_EFFECTS [nearside.graphql.v1.lookup] { by: "key" key: "code" batch: "FetchAuthors" } } }
  method { name: "FetchAuthors" input_type: ".acme.library.v1.FetchAuthorsRequest" output_type: ".acme.library.v1.FetchAuthorsResponse" options { idempotency_level: NO_SIDE_EFFECTS } }
  method { name: "BooksBy" input_type: ".acme.library.v1.BooksByRequest" output_type: ".acme.library.v1.BooksByResponse"
    options { idempotency_level: NO_SIDE_EFFECTS [nearside.graphql.v1.lookup] { of: "Author" by: "writer" key: "code" name: "books" batch: "BooksByMany" } } }
  method { name: "BooksByMany" input_type: ".acme.library.v1.BooksByManyRequest" output_type: ".acme.library.v1.BooksByManyResponse" options { idempotency_level: NO_SIDE_EFFECTS } }
}`

// serviceOf is the one service of a file.
func serviceOf(tb testing.TB, text string) protoreflect.ServiceDescriptor {
	tb.Helper()
	var file descriptorpb.FileDescriptorProto
	if err := prototext.Unmarshal([]byte(text), &file); err != nil {
		tb.Fatal(err)
	}
	d, err := protodesc.NewFile(&file, protoregistry.GlobalFiles)
	if err != nil {
		tb.Fatal(err)
	}
	return d.Services().Get(0)
}

// answering answers calls of a service with what answer makes of them, all as JSON, and notes them.
type answering struct {
	tb      testing.TB
	service protoreflect.ServiceDescriptor
	answer  func(method, request string) (status int, response string)

	mu    sync.Mutex
	calls map[string]int
}

func (a *answering) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	name := r.URL.Path[strings.LastIndexByte(r.URL.Path, '/')+1:]
	m := a.service.Methods().ByName(protoreflect.Name(name))
	req, res := dynamicpb.NewMessage(m.Input()), dynamicpb.NewMessage(m.Output())
	body, err := io.ReadAll(r.Body)
	if err == nil {
		err = proto.Unmarshal(body, req)
	}
	if err != nil {
		a.tb.Error(err)
	}
	a.mu.Lock()
	a.calls[name]++
	a.mu.Unlock()
	text, err := protojson.Marshal(req)
	if err != nil {
		a.tb.Error(err)
	}
	status, response := a.answer(name, strings.ReplaceAll(string(text), " ", ""))
	if status != http.StatusOK {
		w.WriteHeader(status)
		_, _ = io.WriteString(w, response)
		return
	}
	if err := protojson.Unmarshal([]byte(response), res); err != nil {
		a.tb.Errorf("%s %s: %v", name, response, err)
	}
	out, err := proto.Marshal(res)
	if err != nil {
		a.tb.Error(err)
	}
	_, _ = w.Write(out)
}

// counted returns what was called, and begins to count anew.
func (a *answering) counted() map[string]int {
	a.mu.Lock()
	defer a.mu.Unlock()
	was := a.calls
	a.calls = make(map[string]int)
	return was
}

// shelves answers as the library does. What is denied is answered with 403.
func shelves(denied string) func(method, request string) (int, string) {
	book := func(writer string) string {
		return `{"title":"of ` + writer + `","writer":"` + writer + `","helpers":["c","a"],"author_id":"a"}`
	}
	author := func(code string) string { return `{"code":"` + code + `","name":"Name of ` + code + `"}` }
	return func(method, request string) (int, string) {
		if method == denied {
			return http.StatusForbidden, `{"code":"permission_denied"}`
		}
		var list []string
		for _, code := range []string{"a", "b", "c"} {
			if strings.Contains(request, `"`+code+`"`) {
				switch method {
				case "FetchAuthor", "BooksBy":
					list = append(list, map[string]string{"FetchAuthor": `"author":` + author(code), "BooksBy": `"found":[` + book(code) + `]`}[method])
				case "FetchAuthors":
					list = append(list, author(code))
				case "BooksByMany":
					list = append(list, `{"writer":"`+code+`","volumes":[`+book(code)+`]}`)
				}
			}
		}
		switch method {
		case "ListAuthors":
			return 200, `{"authors":[` + author("a") + `,` + author("b") + `,` + author("c") + `]}`
		case "FetchAuthors":
			return 200, `{"all":[` + strings.Join(list, ",") + `]}`
		case "BooksByMany":
			return 200, `{"shelves":[` + strings.Join(list, ",") + `]}`
		default:
			return 200, `{` + strings.Join(list, ",") + `}`
		}
	}
}

// TestDeclaredLinks counts the calls of look-ups that options in a proto declare, and reads what they find.
func TestDeclaredLinks(t *testing.T) {
	service := serviceOf(t, library)
	sdl := build(t, []Service{{Descriptor: service}}).SDL()
	for _, line := range []string{"  author: Author\n", "  helpedBy: [Author]\n", "  books(pageSize: Int, after: String): [Book!]\n"} {
		if !strings.Contains(sdl, line) {
			t.Errorf("the schema has no %q:\n%s", line, sdl)
		}
	}
	if n := strings.Count(sdl, ": Author\n"); n != 2 { // Book.author, and the root's fetchAuthor has arguments
		t.Logf("%d fields are authors", n)
	}
	book := func(code string) string {
		return fmt.Sprintf(`{"title":"of %[1]s","author":{"name":"Name of %[1]s"},"helpedBy":[{"code":"c"},{"code":"a"}]}`, code)
	}
	whole := `{"data":{"authors":[{"books":[` + book("a") + `]},{"books":[` + book("b") + `]},{"books":[` + book("c") + `]}]}}`
	for _, tc := range []struct {
		name, denied, query string
		want                map[string]int
	}{
		{"together", "", `{ authors { books(pageSize: 5) { title author { name } helpedBy { code } } } }`, map[string]int{"ListAuthors": 1, "BooksByMany": 1, "FetchAuthors": 1}},
		{
			"an argument that several have not", "", `{ authors { books(after: "x") { title author { name } helpedBy { code } } } }`,
			map[string]int{"ListAuthors": 1, "BooksBy": 3, "FetchAuthors": 1},
		},
		{
			"several are not for this caller", "BooksByMany", `{ authors { books { title author { name } helpedBy { code } } } }`,
			map[string]int{"ListAuthors": 1, "BooksByMany": 1, "BooksBy": 3, "FetchAuthors": 1},
		},
		{
			"objects are not either", "FetchAuthors", `{ authors { books { title author { name } helpedBy { code } } } }`,
			map[string]int{"ListAuthors": 1, "BooksByMany": 1, "FetchAuthors": 1, "FetchAuthor": 3},
		},
	} {
		a := &answering{tb: t, service: service, answer: shelves(tc.denied), calls: map[string]int{}}
		h := handlerOf(t, a, Service{Descriptor: service})
		if status, got := post(t, h, tc.query, `{}`); status != 200 || got != whole {
			t.Errorf("%s: %d\n%s", tc.name, status, cmp.Diff(whole, got))
		}
		if diff := cmp.Diff(tc.want, a.counted()); diff != "" {
			t.Errorf("%s: calls (-want +got):\n%s", tc.name, diff)
		}
	}
	// Fields of other arguments are other look-ups; equal ones are one, and what was found is not asked for again.
	a := &answering{tb: t, service: service, answer: shelves(""), calls: map[string]int{}}
	h := handlerOf(t, a, Service{Descriptor: service})
	post(t, h, `{ authors { x: books(pageSize: 1) { title } y: books(pageSize: 1) { writer } z: books(pageSize: 2) { author { books(pageSize: 2) { title } } } } }`, `{}`)
	if diff := cmp.Diff(map[string]int{"ListAuthors": 1, "BooksByMany": 2, "FetchAuthors": 1}, a.counted()); diff != "" {
		t.Errorf("calls (-want +got):\n%s", diff)
	}
	// A call that fails in another way is an error of each field.
	a.answer = func(method, request string) (int, string) {
		if method == "BooksByMany" {
			return http.StatusServiceUnavailable, `{"code":"unavailable","message":"no"}`
		}
		return shelves("")(method, request)
	}
	_, got := post(t, h, `{ authors { code books { title } } }`, `{}`)
	if strings.Count(got, `"code":"unavailable"`) != 3 || !strings.Contains(got, `{"code":"c","books":null}`) {
		t.Errorf("%s", got)
	}
}

// TestCostOfLists: what is looked up together costs less than what is not, and the look-ups are counted.
func TestCostOfLists(t *testing.T) {
	service := serviceOf(t, library)
	s := build(t, []Service{{Descriptor: service}})
	cost := func(query string) int {
		d, problems := s.parse(query)
		if len(problems) > 0 {
			t.Fatal(problems)
		}
		return s.cost(d.query.Operations[0].SelectionSet, rootQuery, nil)
	}
	together, single := cost(`{ authors { books(pageSize: 1) { title } } }`), cost(`{ authors { books(pageSize: 1, after: "x") { title } } }`)
	if want := defaultPage * (costCall - costField); single-together != want {
		t.Errorf("together %d, one by one %d: want %d more", together, single, want)
	}
}
