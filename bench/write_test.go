package main

import (
	"math/rand/v2"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"

	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
)

func TestWriterSpeaksTheProtocol(t *testing.T) {
	random := func() *rand.Rand { return rand.New(rand.NewPCG(1, 2)) }
	v := rowValues(random(), 7)
	want := &datav1.TransactRequest{Database: database, Operations: []*datav1.Operation{{Operation: &datav1.Operation_Put{Put: &datav1.Put{
		Table: table, Values: map[string]*datav1.Value{"id": v[0], "email": v[1], "age": v[2], "bio": v[3]},
	}}}}}
	got := new(datav1.TransactRequest)
	var w writer
	w.encode(random(), 8)
	if err := proto.Unmarshal(w.encode(random(), 7), got); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
		t.Error(diff)
	}
}

func TestAnswersAreChecked(t *testing.T) {
	good := func() *datav1.TransactResponse {
		return &datav1.TransactResponse{
			Results: []*datav1.ResultSet{{RowsAffected: 1, LastInsertRowid: proto.Int64(5)}}, Version: 9,
			Answer: &datav1.Answer{Bookmark: "b", Region: "r", SqlMs: 0.5, RowsWritten: 1},
		}
	}
	for name, spoil := range map[string]func(*datav1.TransactResponse){
		"":           func(*datav1.TransactResponse) {},
		"no version": func(r *datav1.TransactResponse) { r.Version = 0 }, "no bookmark": func(r *datav1.TransactResponse) { r.Answer.Bookmark = "" },
		"no result": func(r *datav1.TransactResponse) { r.Results = nil }, "no row": func(r *datav1.TransactResponse) { r.Results[0].RowsAffected = 0 },
		"no answer": func(r *datav1.TransactResponse) { r.Answer = nil },
	} {
		res := good()
		spoil(res)
		encoded, err := proto.Marshal(res)
		if err != nil {
			t.Fatal(err)
		}
		if err := checkWritten(encoded); (err == nil) != (name == "") {
			t.Errorf("%s: %v", name, err)
		}
		if err := checkWritten(encoded[:len(encoded)-1]); err == nil {
			t.Errorf("%s: cut off, but no error", name)
		}
	}
}
