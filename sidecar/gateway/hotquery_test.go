package gateway

import (
	"bytes"
	"testing"

	"google.golang.org/protobuf/types/known/durationpb"

	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/internal/value"
)

func statement(sql string, values ...value.Value) *datav1.QueryRequest {
	return &datav1.QueryRequest{
		Database: "shop", Statement: &datav1.Statement{Sql: sql, Parameters: value.ToProtos(values)},
	}
}

// queries are those of requests that ask statements.
func queries(t *testing.T, mark func(database uint32, version uint64) string) []request {
	t.Helper()
	with := func(change func(*datav1.QueryRequest)) []byte {
		req := statement("SELECT * FROM users WHERE id = ?", value.Integer(1))
		change(req)
		return encode(t, req)
	}
	plain := with(func(*datav1.QueryRequest) {})
	all := []request{
		{name: "statement", body: plain, hot: true},
		{name: "statement, other text", hot: true, body: encode(t, statement("select  * from users\nwhere id = ? -- x", value.Integer(1)))},
		{name: "statement of a long row", hot: true, body: encode(t, statement("SELECT bio, id AS \"no\" FROM users WHERE id = 2"))},
		{name: "statement of all types", hot: true, body: encode(t, statement("SELECT ?, ?, ?, ?, NULL, 1e999, x'00'",
			value.Integer(1), value.Real(0.5), value.Text("1"), value.Blob([]byte("1"))))},
		{name: "statement of no rows", hot: true, body: encode(t, statement("SELECT id, email FROM users WHERE id = 99"))},
		{name: "statement of text that is no UTF-8", hot: true, body: encode(t, statement("SELECT email FROM users WHERE id = ?", value.Integer(-4)))},
		{name: "aggregate", hot: true, body: encode(t, statement("SELECT count(*), max(id) FROM users"))},
		{name: "volatile statement", hot: true, body: encode(t, statement("SELECT typeof(random()) FROM users"))},
		{name: "NULL for a parameter", hot: true, body: encode(t, statement("SELECT typeof(?)", value.Null()))},
		{name: "statement, bookmark reached", hot: true, body: with(func(r *datav1.QueryRequest) {
			r.Consistency = &datav1.Consistency{Bookmark: mark(shopID, 1)}
		})},
		{name: "statement, session", body: plain, header: header("Nearside-Bookmark", mark(shopID, 1)), hot: true},

		{name: "statement, long answer, compressed", header: header("Accept-Encoding", "gzip"), body: encode(t, statement("SELECT * FROM users"))},
		{name: "statement in a hurry", body: with(func(r *datav1.QueryRequest) { r.MaxAge = durationpb.New(0) })},
		{name: "negative age", body: with(func(r *datav1.QueryRequest) { r.MaxAge = durationpb.New(-1) })},
		{name: "named parameter", body: encode(t, &datav1.QueryRequest{Database: "shop", Statement: &datav1.Statement{
			Sql: "SELECT :a", NamedParameters: map[string]*datav1.Value{"a": value.ToProto(value.Integer(1))},
		}})},
		{name: "no statement", body: encode(t, &datav1.QueryRequest{Database: "shop"})},
		{name: "empty statement", body: encode(t, statement(""))},
		{name: "syntax error", body: encode(t, statement("SELECT FROM WHERE"))},
		{name: "parameter missing", body: encode(t, statement("SELECT ?, ?", value.Integer(1)))},
		{name: "parameter too many", body: encode(t, statement("SELECT 1", value.Integer(1)))},
		{name: "error on the way", body: encode(t, statement("SELECT abs(-9223372036854775808)"))},
		{name: "statement, forged bookmark", body: plain, header: header("Nearside-Bookmark", "x")},
		{name: "statement, unknown field", body: append(bytes.Clone(plain), 0x7a, 1, 'x')},
		{name: "statement twice", body: append(bytes.Clone(plain), plain...)},
	}
	for i := range plain {
		all = append(all, request{name: "statement cut off", body: plain[:i]})
	}
	for i := range all {
		all[i].procedure = query
	}
	return all
}
