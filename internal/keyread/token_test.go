package keyread

import (
	"math"
	"strings"
	"testing"

	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/internal/rpcerr"
	"github.com/nearside-dev/nearside/internal/value"
)

var tokenValues = []value.Value{
	value.Null(), value.Integer(math.MinInt64), value.Real(math.Inf(-1)), value.Real(math.Copysign(0, -1)),
	value.Text("héllo"), value.TextBytes([]byte{0xff, 0}), value.Blob(nil), value.Blob(make([]byte, 300)),
}

func mustToken(tb testing.TB, hash requestHash, values ...value.Value) string {
	tb.Helper()
	var b []byte
	for _, v := range values {
		b = appendValue(b, v)
	}
	token, err := encodeToken(hash, b)
	if err != nil {
		tb.Fatal(err)
	}
	return token
}

func TestTokenRoundTrip(t *testing.T) {
	token := mustToken(t, requestHash{1}, tokenValues...)
	got, err := decodeToken(token, requestHash{1}, len(tokenValues))
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range tokenValues {
		if !value.Equal(got[i], want) {
			t.Errorf("value %d is %v, want %v", i, got[i], want)
		}
	}
}

func TestTokenRefused(t *testing.T) {
	good := mustToken(t, requestHash{1}, value.Integer(1))
	tests := map[string]string{
		"empty of values":  mustToken(t, requestHash{1}),
		"too many values":  mustToken(t, requestHash{1}, value.Integer(1), value.Null()),
		"other request":    mustToken(t, requestHash{2}, value.Integer(1)),
		"padding":          good + "=",
		"line break":       good[:8] + "\n" + good[8:],
		"truncated":        good[:len(good)-2],
		"too long":         strings.Repeat("A", maxTokenChars+1),
		"other format":     "Ag" + good[2:],
		"not a number":     tokenEncoding.EncodeToString(append([]byte{1, 1, 0, 0, 0, 0, 0, 0, 0, 2}, 0x7f, 0xf8, 0, 0, 0, 0, 0, 0)),
		"unknown kind":     tokenEncoding.EncodeToString([]byte{1, 1, 0, 0, 0, 0, 0, 0, 0, 9}),
		"long text length": tokenEncoding.EncodeToString([]byte{1, 1, 0, 0, 0, 0, 0, 0, 0, 3, 0x81, 0, 'a'}),
	}
	for name, token := range tests {
		if _, err := decodeToken(token, requestHash{1}, 1); rpcerr.ReasonOf(err) != reasonToken {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := encodeToken(requestHash{}, make([]byte, maxTokenChars)); err == nil {
		t.Error("a token longer than a request may have it was made")
	}
}

// What is not the request's range may change between pages, the rest may not.
func TestHashRequest(t *testing.T) {
	base := func() *datav1.ListRequest {
		return &datav1.ListRequest{Database: "d", Table: "t", Prefix: protos(1), Start: bound(false, "a")}
	}
	want := hashRequest(base())
	same := base()
	same.PageSize, same.PageToken, same.Consistency = 7, "x", &datav1.Consistency{Level: datav1.Consistency_LEVEL_PRIMARY}
	if hashRequest(same) != want {
		t.Error("page size, token or consistency changes the hash")
	}
	for name, change := range map[string]func(*datav1.ListRequest){
		"database":  func(r *datav1.ListRequest) { r.Database = "e" },
		"split":     func(r *datav1.ListRequest) { r.Database, r.Table = "dt", "" },
		"index":     func(r *datav1.ListRequest) { r.Index = "i" },
		"prefix":    func(r *datav1.ListRequest) { r.Prefix = protos(1.0) },
		"side":      func(r *datav1.ListRequest) { r.Start, r.End = nil, r.Start },
		"exclusive": func(r *datav1.ListRequest) { r.Start.Exclusive = true },
		"reverse":   func(r *datav1.ListRequest) { r.Reverse = true },
	} {
		req := base()
		change(req)
		if hashRequest(req) == want {
			t.Errorf("%s does not change the hash", name)
		}
	}
}

func FuzzToken(f *testing.F) {
	f.Add(mustToken(f, requestHash{1}, tokenValues...), 8)
	f.Add(mustToken(f, requestHash{1}), 0)
	f.Add("AQEAAAAAAAAAAw", 1)
	f.Fuzz(func(t *testing.T, token string, columns int) {
		columns &= 0xff
		values, err := decodeToken(token, requestHash{1}, columns)
		if err != nil {
			if rpcerr.ReasonOf(err) != reasonToken {
				t.Fatalf("untyped error: %v", err)
			}
			return
		}
		if len(values) != columns {
			t.Fatalf("%d values, want %d", len(values), columns)
		}
		if again := mustToken(t, requestHash{1}, values...); again != token {
			t.Fatalf("%q decodes and encodes to %q", token, again)
		}
	})
}
