package graphql

import (
	"runtime"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// FuzzQuickRequest: what is read here is what package json reads.
func FuzzQuickRequest(f *testing.F) {
	for _, body := range []string{
		`{"query":"{ a }"}`, `{ "query" : "query ($id: ID!) {\n\ta(id: \"x\\y\")\n}", "variables" : {"id":"u","n":-5,"b":true,"c":null}, "operationName": null }`,
		`{"query":"a","query":"b"}`, `{"query":"a","variables":{"a":[1]}}`, `{"query":"a","variables":{"a":1.5}}`, `{"query":"\u0041"}`, `{"query":"a"}x`,
		`{"query":"a","operationName":"q","variables":{}}`, `{"query":"a","variables":{"a":01}}`, `{"Query":"a"}`, "{\"query\":\"\xff\"}", `{"query":"a","variables":null,}`,
	} {
		f.Add([]byte(body))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		var quick quickRequest
		if !quick.read(body) {
			return
		}
		var slow graphRequest
		if err := decode(body, &slow); err != nil {
			t.Fatalf("%q is read, and is none: %v", body, err)
		}
		vars, err := slow.variables()
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(vars, quick.vars); diff != "" || slow.Query != string(quick.query) || slow.OperationName != string(quick.operation) {
			t.Errorf("%q: %q %q\n%s", body, quick.query, quick.operation, diff)
		}
	})
}

// TestQuickRequest: requests as clients send them are read here.
func TestQuickRequest(t *testing.T) {
	for body, want := range map[string]bool{
		`{"query":"query ($id: ID!) { user(id: $id) { id } }","variables":{"id":"usr_1"}}`:                                          true,
		"{\n  \"operationName\": \"q\",\n  \"query\": \"query q {\\n  user(id: \\\"1\\\") { id }\\n}\\n\",\n  \"variables\": {}\n}": true,
		`{"query":"{ a }","variables":{"a":{"b":1}}}`:                                                                               false, `{"query":"{ a }","extensions":{}}`: false, `{"query":""}`: false, `[]`: false,
	} {
		var q quickRequest
		if got := q.read([]byte(body)); got != want {
			t.Errorf("%s: %v", body, got)
		}
	}
}

// TestWeightOfDocuments compares what documents are taken to weigh with what they do.
func TestWeightOfDocuments(t *testing.T) {
	s := build(t, services(t))
	for name, text := range map[string]string{
		"short": `{ user(id: "1") { id } }`, "plain": `{ users { ` + strings.Repeat("id name email version createTime updateTime ", 50) + `} }`,
		"deep":    `{ users { orders { user { orders { user { orders { user { orders { id } } } } } } } } }`,
		"aliases": `{ users { ` + strings.Repeat("a: id ", 90) + `} }`, "arguments": `{ users(pageSize: 1) { ` + strings.Repeat(`orders(pageSize: 1) { id } `, 100) + `} }`,
		"variables": `query (` + strings.Repeat("$a: Int ", 1) + `) { users(pageSize: $a) { id } }`,
		"fragments": `{ users { ...f } } fragment f on User { ` + strings.Repeat("id ", 130) + `}`,
	} {
		const documents = 8
		kept := make([]*document, documents)
		var before, after runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&before)
		for i := range kept {
			var problems []graphError
			if kept[i], problems = s.parse(text); len(problems) > 0 {
				t.Fatalf("%s: %v", name, problems)
			}
		}
		runtime.GC()
		runtime.ReadMemStats(&after)
		if each := (int(after.HeapAlloc) - int(before.HeapAlloc)) / documents; each > weightOf(text) {
			t.Errorf("%s of %d bytes takes %d bytes, and is taken for %d", name, len(text), each, weightOf(text))
		}
		runtime.KeepAlive(kept)
	}
}
