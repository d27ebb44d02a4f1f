package rest_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/nearside-dev/nearside/internal/meshtest"
	"github.com/nearside-dev/nearside/services/business"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	east = "us-east-1"
	west = "eu-west-1"
)

func start(t *testing.T, auth bool) *meshtest.Mesh {
	t.Helper()
	m := meshtest.Start(t, meshtest.Options{
		Regions: []string{east, west}, Mount: business.Mount, MountedServices: business.Names, Auth: auth,
	})
	if err := business.Setup(t.Context(), m.Client("")); err != nil {
		t.Fatal(err)
	}
	m.WaitSync(business.Database)
	return m
}

// reply is an answer, read whole.
type reply struct {
	status int
	header http.Header
	body   string
}

func (r reply) field(t *testing.T, name string) string {
	t.Helper()
	var object map[string]any
	if err := json.Unmarshal([]byte(r.body), &object); err != nil {
		t.Fatalf("%s: %v", r.body, err)
	}
	return fmt.Sprint(object[name])
}

// call makes a request; headers are "Name: value".
func call(t *testing.T, client *http.Client, verb, url, body string, headers ...string) reply {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), verb, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		req.Header.Set(name, value)
	}
	res, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return reply{res.StatusCode, res.Header, string(text)}
}

func (r reply) want(t *testing.T, what string, status int) reply {
	t.Helper()
	if r.status != status {
		t.Fatalf("%s: status %d, want %d: %s", what, r.status, status, r.body)
	}
	return r
}

// problem checks an error: its status, its reason, and the field that it names.
func (r reply) problem(t *testing.T, what string, status int, reason, field string) {
	t.Helper()
	var p struct {
		Type, Title, Reason string
		Status              int
		Errors              []struct{ Field string }
	}
	if r.status != status || r.header.Get("Content-Type") != "application/problem+json" {
		t.Errorf("%s: status %d, want %d: %s %s", what, r.status, status, r.header.Get("Content-Type"), r.body)
		return
	}
	if err := json.Unmarshal([]byte(r.body), &p); err != nil {
		t.Errorf("%s: %v: %s", what, err, r.body)
		return
	}
	if p.Status != status || p.Title == "" || p.Type == "" || p.Reason != reason {
		t.Errorf("%s: %s", what, r.body)
	}
	if field != "" && (len(p.Errors) != 1 || p.Errors[0].Field != field) {
		t.Errorf("%s: want field %s: %s", what, field, r.body)
	}
}

// TestUsers lives a user's life over REST, in two regions with a bookmark between them.
func TestUsers(t *testing.T) {
	m := start(t, false)
	users := m.URL(west) + "/v1/users"
	ada := `{"email":"ada@example.org","name":"Ada"}`
	created := call(t, m.HTTP(), "POST", users, ada, "Idempotency-Key: k1").want(t, "create", http.StatusCreated)
	id := created.field(t, "id")
	if got := created.header.Get("Location"); got != "/v1/users/"+id {
		t.Errorf("Location %s", got)
	}
	again := call(t, m.HTTP(), "POST", users, ada, "Idempotency-Key: k1").want(t, "create again", http.StatusCreated)
	if again.field(t, "id") != id {
		t.Errorf("a repeat made another user: %s", again.body)
	}
	call(t, m.HTTP(), "POST", users, ada).problem(t, "a taken email", http.StatusConflict, "ALREADY_EXISTS", "")

	bookmark := "Nearside-Bookmark: " + created.header.Get("Nearside-Bookmark")
	one := m.URL(east) + "/v1/users/" + id
	got := call(t, m.HTTP(), "GET", one, "", bookmark).want(t, "get", http.StatusOK)
	tag := got.header.Get("Etag")
	if tag == "" || got.field(t, "email") != "ada@example.org" || got.header.Get("Cache-Control") != "private, no-cache" {
		t.Errorf("%v %s", got.header, got.body)
	}
	if r := call(t, m.HTTP(), "GET", one, "", bookmark, "If-None-Match: "+tag).want(t, "get again", http.StatusNotModified); r.body != "" {
		t.Errorf("304 with %q", r.body)
	}
	head := call(t, m.HTTP(), "HEAD", one, "", bookmark).want(t, "head", http.StatusOK)
	if head.body != "" || head.header.Get("Content-Length") != fmt.Sprint(len(got.body)) || head.header.Get("Etag") != tag {
		t.Errorf("head: %v %q", head.header, head.body)
	}
	if r := call(t, m.HTTP(), "GET", one+"?fields=name", "", bookmark).want(t, "a part", http.StatusOK); r.body != `{"name":"Ada"}` {
		t.Errorf("a part: %s", r.body)
	}

	patched := call(t, m.HTTP(), "PATCH", one, `{"name":"Ada L."}`, "If-Match: "+tag).want(t, "patch", http.StatusOK)
	if patched.field(t, "name") != "Ada L." || patched.header.Get("Etag") == tag {
		t.Errorf("patched: %v %s", patched.header, patched.body)
	}
	call(t, m.HTTP(), "PATCH", one, `{"name":"Eve"}`, "If-Match: "+tag).
		problem(t, "a tag that is old", http.StatusPreconditionFailed, "PRECONDITION_FAILED", "")
	masked := call(t, m.HTTP(), "PATCH", one, `{"name":"Ada K.","email":"eve@example.org","updateMask":"name"}`).want(t, "mask", http.StatusOK)
	if masked.field(t, "email") != "ada@example.org" || masked.field(t, "name") != "Ada K." {
		t.Errorf("masked: %s", masked.body)
	}
	call(t, m.HTTP(), "PATCH", one, `{"id":"usr_1","name":"Eve"}`).problem(t, "another id than the path's", http.StatusBadRequest, "FIELD_INVALID", "id")
	call(t, m.HTTP(), "PUT", one, `{"id":"usr_1","name":"Eve","email":"e@example.org"}`).
		problem(t, "another id than the path's", http.StatusBadRequest, "FIELD_INVALID", "id")
	call(t, m.HTTP(), "PATCH", one, `{"id":"`+id+`","name":"Ada K."}`).want(t, "the path's id", http.StatusOK)
	call(t, m.HTTP(), "PUT", one, `{"name":"Ada"}`).problem(t, "a part for the whole", http.StatusBadRequest, "FIELD_INVALID", "email")
	call(t, m.HTTP(), "PUT", one, `{"name":"Countess","email":"c@example.org"}`).want(t, "put", http.StatusOK)

	items := `"items":[{"sku":"pen","quantity":2,"priceCents":150}]}`
	order := call(t, m.HTTP(), "POST", m.URL(west)+"/v1/orders", `{"userId":"`+id+`",`+items).want(t, "order", http.StatusCreated)
	if order.field(t, "totalCents") != "300" {
		t.Errorf("order: %s", order.body)
	}
	call(t, m.HTTP(), "DELETE", one, "").problem(t, "a user with orders", http.StatusConflict, "RULE_VIOLATED", "")
	other := call(t, m.HTTP(), "POST", users, `{"email":"b@example.org","name":"B"}`).want(t, "another", http.StatusCreated).field(t, "id")
	if r := call(t, m.HTTP(), "DELETE", users+"/"+other, "").want(t, "delete", http.StatusNoContent); r.body != "" {
		t.Errorf("204 with %q", r.body)
	}
}

// TestPages follows the links of a list.
func TestPages(t *testing.T) {
	m := start(t, false)
	for i := range 5 {
		call(t, m.HTTP(), "POST", m.URL(east)+"/v1/users", fmt.Sprintf(`{"email":"u%d@example.org","name":"U"}`, i)).
			want(t, "create", http.StatusCreated)
	}
	m.WaitSync(business.Database)
	seen, path := 0, "/v1/users?pageSize=2&fields=users.id,nextPageToken"
	for pages := 1; path != ""; pages++ {
		r := call(t, m.HTTP(), "GET", m.URL(west)+path, "").want(t, path, http.StatusOK)
		seen += strings.Count(r.body, `"id"`)
		link, found := strings.CutPrefix(r.header.Get("Link"), "<")
		path, _, _ = strings.Cut(link, ">")
		if strings.Contains(r.body, "email") {
			t.Fatalf("more than was asked for: %s", r.body)
		}
		if !found && pages != 3 {
			t.Fatalf("%d pages", pages)
		}
	}
	if seen != 5 {
		t.Errorf("%d users", seen)
	}
}

// TestHTTP is about what HTTP says of requests that are no calls.
func TestHTTP(t *testing.T) {
	m := start(t, false)
	base := m.URL(west)
	call(t, m.HTTP(), "GET", base+"/v1/nothing", "").problem(t, "unknown path", http.StatusNotFound, "", "")
	call(t, m.HTTP(), "GET", base+"/v1/users/nobody", "").problem(t, "unknown user", http.StatusNotFound, "RESOURCE_NOT_FOUND", "")
	r := call(t, m.HTTP(), "POST", base+"/v1/users/nobody", "")
	r.problem(t, "wrong method", http.StatusMethodNotAllowed, "", "")
	allow := "DELETE, GET, HEAD, PATCH, PUT, OPTIONS"
	if got := r.header.Get("Allow"); got != allow {
		t.Errorf("Allow: %s", got)
	}
	if r := call(t, m.HTTP(), "OPTIONS", base+"/v1/users/nobody", "").want(t, "options", http.StatusNoContent); r.header.Get("Allow") != allow {
		t.Errorf("Allow: %v", r.header)
	}
	call(t, m.HTTP(), "GET", base+"/v1/users", "", "Accept: text/html").problem(t, "accept", http.StatusNotAcceptable, "", "")
	call(t, m.HTTP(), "POST", base+"/v1/users", "<user/>", "Content-Type: text/xml").
		problem(t, "content type", http.StatusUnsupportedMediaType, "", "")
	call(t, m.HTTP(), "POST", base+"/v1/users", `{"email":"a@b.c","nick":"A"}`).
		problem(t, "unknown field", http.StatusBadRequest, "FIELD_INVALID", "nick")
	call(t, m.HTTP(), "POST", base+"/v1/users", `{"email":`).problem(t, "no JSON", http.StatusBadRequest, "FIELD_INVALID", "body")
	call(t, m.HTTP(), "POST", base+"/v1/users", `{"email":"nobody","name":"N"}`).
		problem(t, "bad field", http.StatusBadRequest, "FIELD_INVALID", "email")
	call(t, m.HTTP(), "GET", base+"/v1/users?page=2", "").problem(t, "unknown parameter", http.StatusBadRequest, "FIELD_INVALID", "page")
	call(t, m.HTTP(), "GET", base+"/v1/users?page_size=many", "").
		problem(t, "bad parameter", http.StatusBadRequest, "FIELD_INVALID", "page_size")
	call(t, m.HTTP(), "GET", base+"/v1/users?page_size=5000", "").
		problem(t, "parameter too large", http.StatusBadRequest, "FIELD_INVALID", "page_size")
	for query, want := range map[string]string{
		"users?pageSize=many": "pageSize: is no whole number of uint32", "users?pageSize=-1": "pageSize: is no whole number of uint32",
		"users?pageSize=": "pageSize: is no whole number of uint32", "users?pageSize=1&pageSize=2": "pageSize: is given more than once",
		"users?pageSize=1&page_size=2":       "page_size: is given more than once",
		"databases?consistency.level=FAST":   "consistency.level: is none of LEVEL_UNSPECIFIED, LEVEL_ANY, ",
		"databases?consistency.maxWait=soon": "consistency.maxWait: is no duration, such as 1.5s",
	} {
		r := call(t, m.HTTP(), "GET", base+"/v1/"+query, "")
		field, _, _ := strings.Cut(want, ":")
		r.problem(t, query, http.StatusBadRequest, "FIELD_INVALID", field)
		if !strings.HasPrefix(r.field(t, "detail"), want) {
			t.Errorf("%s: %s, want %s", query, r.body, want)
		}
	}
	call(t, m.HTTP(), "GET", base+"/v1/users:batchGet?ids=a&ids=b", "").want(t, "a list", http.StatusOK)
	for _, verb := range []string{"GET", "DELETE"} {
		call(t, m.HTTP(), verb, base+"/v1/users/nobody", "{}").problem(t, verb+" with a body", http.StatusBadRequest, "FIELD_INVALID", "body")
		call(t, m.HTTP(), verb, base+"/v1/users/n%C3%A4body", "").problem(t, verb, http.StatusNotFound, "RESOURCE_NOT_FOUND", "")
	}
	if r := call(t, m.HTTP(), "GET", base+"/v1/users/n%C3%A4body", ""); r.field(t, "instance") != "/v1/users/n%C3%A4body" {
		t.Errorf("the instance is no URI: %s", r.body)
	}
	if r := call(t, m.HTTP(), "GET", base+"/v1/databases", ""); strings.Contains(r.body, `", "`) || strings.Contains(r.body, "}, {") {
		t.Errorf("spaces between tokens: %s", r.body)
	}
	call(t, m.HTTP(), "POST", base+"/v1/orders", `{"userId":"u","items":[{"sku":"a","quantity":1,"priceCents":-1}]}`).
		problem(t, "a field by its name in JSON", http.StatusBadRequest, "FIELD_INVALID", "items[0].priceCents")
	for _, name := range []string{"pageToken", "page_token"} {
		r := call(t, m.HTTP(), "GET", base+"/v1/users?"+name+"=x", "")
		r.problem(t, "a bad page", http.StatusBadRequest, "PAGE_TOKEN_INVALID", name)
		if got := r.field(t, "detail"); got != name+": is malformed" {
			t.Errorf("detail %q", got)
		}
	}
	call(t, m.HTTP(), "GET", base+"/v1/users?fields=users.nothing", "").
		problem(t, "unknown part", http.StatusBadRequest, "FIELD_INVALID", "fields")
	call(t, m.HTTP(), "PATCH", base+"/v1/users/nobody", `{"name":"N"}`, "If-Match: 12").
		problem(t, "a tag that is none", http.StatusBadRequest, "FIELD_INVALID", "If-Match")
	deep := strings.Repeat(`{"statement":`, 20_000) + strings.Repeat("}", 20_000)
	if r := call(t, m.HTTP(), "POST", base+"/v1/databases/business:query", deep); r.status != http.StatusBadRequest {
		t.Errorf("JSON that is deep: %d %.200s", r.status, r.body)
	}
}

// TestCallers has REST pass the same checks as calls.
func TestCallers(t *testing.T) {
	m := start(t, true)
	bare := &http.Client{Transport: &http.Transport{}}
	defer bare.CloseIdleConnections()
	r := call(t, bare, "GET", m.URL(west)+"/v1/users", "")
	r.problem(t, "nobody", http.StatusUnauthorized, "UNAUTHENTICATED", "")
	if r.header.Get("WWW-Authenticate") == "" {
		t.Error("401 without a challenge")
	}
	call(t, bare, "POST", m.URL(west)+"/v1/databases/business:query", `{"statement":{"sql":"SELECT 1"}}`).
		problem(t, "nobody's query", http.StatusUnauthorized, "UNAUTHENTICATED", "")
	call(t, m.HTTP(), "GET", m.URL(west)+"/v1/users", "").want(t, "the admin", http.StatusOK)
	call(t, bare, "POST", m.URL(west)+"/v1/auth:authenticate", `{"password":{"name":"nobody","password":"x"}}`).
		problem(t, "a wrong password", http.StatusUnauthorized, "UNAUTHENTICATED", "")
	call(t, bare, "GET", m.URL(west)+"/openapi.json", "").want(t, "the document", http.StatusOK)
}
