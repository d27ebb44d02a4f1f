package business

import (
	"bytes"
	"math"
	"net/http"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	businessv1 "github.com/nearside-dev/nearside/gen/nearside/business/v1"
	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/internal/hotrpc"
	"github.com/nearside-dev/nearside/internal/identity"
	"github.com/nearside-dev/nearside/internal/value"
)

// userAnswer is the answer to a Get of a user.
func userAnswer(version uint64, columns []string, values ...value.Value) *datav1.GetResponse {
	res := &datav1.GetResponse{Row: &datav1.Row{Values: value.ToProtos(values), Version: version}, Answer: &datav1.Answer{Region: "r"}}
	for _, c := range columns {
		res.Columns = append(res.Columns, &datav1.Column{Name: c, DeclaredType: "TEXT"})
	}
	return res
}

// compareUser has a GetResponse be read both ways, and fails where the hot one answers something else.
func compareUser(t *testing.T, msg []byte) (answered bool) {
	t.Helper()
	h := &hot{get: func(_ *identity.Principal, _ http.Header, _ []byte, a *hotrpc.Answer) bool {
		a.Message, a.Bookmark = append(a.Message, msg...), []string{"b"}
		return true
	}}
	var a hotrpc.Answer
	if !h.getUser(&identity.Principal{}, http.Header{}, []byte("\x0a\x01x"), &a) {
		return false
	}
	var res datav1.GetResponse
	if err := proto.Unmarshal(msg, &res); err != nil {
		t.Fatalf("package proto: %v", err)
	}
	want, err := userFrom(res.GetColumns(), res.GetRow())
	if err != nil || res.GetRow() == nil {
		t.Fatalf("the general handler has %v of %v", err, &res)
	}
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(&businessv1.GetUserResponse{User: want})
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(b, a.Message) {
		t.Errorf("got %x, want %x", a.Message, b)
	}
	return true
}

var plainColumns = []string{"id", "email", "name", "created_at", "updated_at"}

func userValues(id, email, name string, created, updated int64) []value.Value {
	return []value.Value{value.Text(id), value.Text(email), value.Text(name), value.Integer(created), value.Integer(updated)}
}

func TestHotUser(t *testing.T) {
	for _, tc := range []struct {
		name string
		res  *datav1.GetResponse
		want bool
	}{
		{"a user", userAnswer(7, plainColumns, userValues("usr_1", "a@b.c", "Ann", 1_700_000_000_123_000_000, 1_700_000_000_123_456_789)...), true},
		{"without a version", userAnswer(0, plainColumns, userValues("u", "e", "n", 1, 2)...), true},
		{"times at the edges", userAnswer(1, plainColumns, userValues("u", "e", "n", 0, math.MaxInt64)...), true},
		{"before 1970", userAnswer(1, plainColumns, userValues("u", "e", "n", -1, math.MinInt64)...), true},
		{"empty texts", userAnswer(1, plainColumns, userValues("", "", "", 1, 1)...), true},
		{"a short one", userAnswer(0, plainColumns, userValues("", "", "", 0, 0)...), true},
		{"a long one", userAnswer(1, plainColumns, userValues("u", "e", strings.Repeat("n", 20_000), 1, 1)...), true},
		{"columns in another order", userAnswer(1, []string{"more", "updated_at", "name", "id", "created_at", "email"},
			value.Real(0.5), value.Integer(2), value.Text("n"), value.Text("i"), value.Integer(1), value.Text("e")), true},
		{"no row", &datav1.GetResponse{Columns: userAnswer(1, plainColumns).GetColumns()}, false},
		{"a column twice", userAnswer(1, []string{"id", "id", "name", "created_at", "updated_at"}, userValues("u", "e", "n", 1, 1)...), false},
		{"a column is missing", userAnswer(1, plainColumns[:4], userValues("u", "e", "n", 1, 1)[:4]...), false},
		{"a name that is no text", userAnswer(1, plainColumns, value.Text("u"), value.Text("e"), value.Integer(1), value.Integer(1), value.Integer(1)), false},
		{"a time that is none", userAnswer(1, plainColumns, value.Text("u"), value.Text("e"), value.Text("n"), value.Null(), value.Integer(1)), false},
		{"a text that is no UTF-8", userAnswer(1, plainColumns, value.Text("u"), value.Text("e"), value.TextBytes([]byte{0xff}), value.Integer(1), value.Integer(1)), false},
		{"too few values", userAnswer(1, plainColumns, value.Text("u")), false},
	} {
		msg, err := proto.Marshal(tc.res)
		if err != nil {
			t.Fatal(err)
		}
		if got := compareUser(t, msg); got != tc.want {
			t.Errorf("%s: answered %v", tc.name, got)
		}
	}
}

// TestHotUserRequests: which requests are looked at, and what is asked for then.
func TestHotUserRequests(t *testing.T) {
	var asked datav1.GetRequest
	h := &hot{get: func(_ *identity.Principal, _ http.Header, msg []byte, _ *hotrpc.Answer) bool {
		if err := proto.Unmarshal(msg, &asked); err != nil {
			t.Error(err)
		}
		return false
	}}
	for _, id := range []string{"u", "usr_0123456789", strings.Repeat("x", 64), "ü"} {
		msg, err := proto.Marshal(&businessv1.GetUserRequest{Id: id})
		if err != nil {
			t.Fatal(err)
		}
		want := &datav1.GetRequest{Database: Database, Table: tableUsers, Key: keyOf(id)}
		if h.getUser(nil, nil, msg, &hotrpc.Answer{}); !proto.Equal(&asked, want) {
			t.Errorf("%q: asked for %v", id, &asked)
		}
	}
	asked.Reset()
	for _, msg := range []string{"", "\x0a\x00", "\x0a\x41" + strings.Repeat("x", 65), "\x0a\x01\xff", "\x0a\x01x\x0a\x01y", "\x0a\x01x\x10\x01", "\x0a\x02x", "\x08\x01"} {
		if h.getUser(nil, nil, []byte(msg), &hotrpc.Answer{}) || asked.GetDatabase() != "" {
			t.Errorf("%q was looked at", msg)
		}
	}
}

func FuzzHotUser(f *testing.F) {
	for _, res := range []*datav1.GetResponse{
		userAnswer(7, plainColumns, userValues("usr_1", "a@b.c", "Ann", 1_700_000_000_123_000_000, -5)...),
		userAnswer(1, plainColumns[:2], value.Null(), value.Text("x")),
	} {
		msg, err := proto.Marshal(res)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(msg)
		f.Add(append(bytes.Clone(msg), msg...))
	}
	f.Fuzz(func(t *testing.T, msg []byte) { compareUser(t, msg) })
}
