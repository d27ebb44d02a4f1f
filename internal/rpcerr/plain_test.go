package rpcerr

import (
	"math"
	"strings"
	"testing"

	"buf.build/go/protovalidate"
	"google.golang.org/protobuf/proto"

	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	replicationv1 "github.com/nearside-dev/nearside/gen/nearside/replication/v1"
)

// limits are requests that go as far as plain lets them.
func limits() []proto.Message {
	long := func(n int) string { return strings.Repeat("x", n) }
	values := func(n int) []*datav1.Value {
		all := make([]*datav1.Value, n)
		for i := range all {
			all[i] = &datav1.Value{}
		}
		return all
	}
	named := func(n int) map[string]*datav1.Value {
		all := make(map[string]*datav1.Value, n)
		for i := range n {
			all[long(1+i%100)+string(rune('a'+i%26))+strings.Repeat("y", i/100)] = &datav1.Value{}
		}
		return all
	}
	key := &datav1.Key{Values: values(64), Index: long(256)}
	fresh := &datav1.Consistency{Level: datav1.Consistency_LEVEL_PRIMARY, Bookmark: long(256)}
	statement := &datav1.Statement{Sql: long(1 << 20), Parameters: values(32766)}
	keys := make([]*datav1.Key, 1000)
	for i := range keys {
		keys[i] = &datav1.Key{Values: values(1)}
	}
	operations := make([]*datav1.Operation, 100_000)
	for i := range operations {
		operations[i] = &datav1.Operation{Operation: &datav1.Operation_Put{Put: &datav1.Put{Table: "t"}}}
	}
	return []proto.Message{
		&datav1.GetRequest{Database: long(63), Table: long(63), Key: key, Consistency: fresh},
		&datav1.BatchGetRequest{Database: "d", Table: "t", Keys: keys, Consistency: fresh},
		&datav1.ListRequest{
			Database: "d", Table: "t", Index: long(256), Prefix: values(64), Start: &datav1.ListRequest_Bound{Values: values(64)},
			End: &datav1.ListRequest_Bound{Values: values(64)}, PageSize: 10_000, PageToken: long(16384), Consistency: fresh,
		},
		&datav1.QueryRequest{Database: "d", Statement: statement, Consistency: fresh},
		&datav1.ExecuteRequest{Database: "d", Statement: statement, IdempotencyKey: long(255), Consistency: fresh},
		&datav1.TransactRequest{Database: "d", Operations: operations, IdempotencyKey: long(255)},
		&datav1.TransactRequest{Database: "d", Operations: []*datav1.Operation{
			{Operation: &datav1.Operation_Statement{Statement: statement}},
			{Operation: &datav1.Operation_Put{Put: &datav1.Put{Table: long(63), Values: named(2000)}}},
			{Operation: &datav1.Operation_Update{Update: &datav1.Update{Table: "t", Key: key, Set: named(2000)}}},
			{Operation: &datav1.Operation_Delete{Delete: &datav1.Delete{Table: "t", Key: key}}},
		}},
		&replicationv1.SubscribeRequest{Message: &replicationv1.SubscribeRequest_Ping{Ping: &replicationv1.Ping{SentNanos: math.MinInt64}}},
	}
}

func TestPlainGoesNoFurtherThanTheRules(t *testing.T) {
	for _, m := range limits() {
		if !plain(m) {
			t.Errorf("%T is not plain at its limits", m)
		}
		if err := protovalidate.Validate(m); err != nil {
			t.Errorf("%T: %v", m, err)
		}
	}
}

// What is plain breaks no rule, whatever a caller sends.
func FuzzPlain(f *testing.F) {
	for i, m := range limits() {
		if proto.Size(m) > 4096 {
			continue // the test above has them
		}
		b, err := proto.Marshal(m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(uint8(i), b)
	}
	one := &datav1.Key{Values: []*datav1.Value{{}}}
	for i, m := range []proto.Message{
		&datav1.GetRequest{Database: "d", Table: "t", Key: one}, &datav1.BatchGetRequest{Database: "d", Table: "t", Keys: []*datav1.Key{one}},
		&datav1.ListRequest{Database: "d", Table: "t"}, &datav1.QueryRequest{Database: "d", Statement: &datav1.Statement{Sql: "x"}},
		&datav1.ExecuteRequest{Database: "d", Statement: &datav1.Statement{Sql: "x"}},
		&datav1.TransactRequest{Database: "d", Operations: []*datav1.Operation{
			{Operation: &datav1.Operation_Delete{Delete: &datav1.Delete{Table: "t", Key: one}}}, {},
		}},
		&datav1.GetRequest{Database: "d", Table: "t", Key: &datav1.Key{}}, &datav1.BatchGetRequest{Database: "d"}, &datav1.ListRequest{},
		&datav1.QueryRequest{Database: "d"}, &datav1.ExecuteRequest{Database: "d"}, &datav1.TransactRequest{Database: "d"},
	} {
		b, err := proto.Marshal(m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(uint8(i%6), b)
	}
	f.Fuzz(func(t *testing.T, kind uint8, b []byte) {
		m := []proto.Message{
			&datav1.GetRequest{}, &datav1.BatchGetRequest{}, &datav1.ListRequest{}, &datav1.QueryRequest{}, &datav1.ExecuteRequest{},
			&datav1.TransactRequest{}, &datav1.TransactRequest{}, &replicationv1.SubscribeRequest{},
		}[kind%8]
		if proto.Unmarshal(b, m) != nil || !plain(m) {
			return
		}
		if err := protovalidate.Validate(m); err != nil {
			t.Errorf("%v is plain, but %v", m, err)
		}
	})
}
