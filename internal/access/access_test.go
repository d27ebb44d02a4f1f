package access

import (
	"errors"
	"fmt"
	"net/http"
	"testing"
	"time"

	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/gen/nearside/data/v1/datav1connect"
	"github.com/nearside-dev/nearside/internal/identity"
	"github.com/nearside-dev/nearside/internal/meshdb"
	"github.com/nearside-dev/nearside/internal/value"
)

func TestWhatRowsSayCountsAtOnce(t *testing.T) {
	text, integer := value.Text, value.Integer
	for name, change := range map[string]func(w *world){
		"token revoked":   func(w *world) { w.add(meshdb.TableRevocations, text("t_1"), integer(0)) },
		"session revoked": func(w *world) { w.add(meshdb.TableRevocations, text("s_1"), integer(0)) },
		"all revoked": func(w *world) {
			w.clear(meshdb.TableAccounts)
			w.add(meshdb.TableAccounts, text("u_ann"), text("user"), text("ann"), integer(0), integer(w.now.UnixMilli()))
		},
		"disabled": func(w *world) {
			w.clear(meshdb.TableAccounts)
			w.add(meshdb.TableAccounts, text("u_ann"), text("user"), text("ann"), integer(1), integer(0))
		},
		"account deleted":     func(w *world) { w.clear(meshdb.TableAccounts) },
		"signing key deleted": func(w *world) { w.clear(meshdb.TableSigningKeys) },
	} {
		w := newWorld(t)
		token := w.token(t, nil)
		if got := w.reason(token); got != "" {
			t.Fatalf("%s: before: %s", name, got)
		}
		change(w)
		if got := w.reason(token); got != "TOKEN_INVALID" {
			t.Errorf("%s: %q", name, got)
		}
	}
	w := newWorld(t)
	if got := w.reason(w.apiKey); got != "" {
		t.Fatal(got)
	}
	w.clear(meshdb.TableAPIKeys)
	if got := w.reason(w.apiKey); got != "TOKEN_INVALID" {
		t.Errorf("key deleted: %q", got)
	}
	hash := HashSecret(w.apiKey)
	w.add(meshdb.TableAPIKeys, text("k_1"), text("sa_bot"), value.Blob(hash[:]), integer(w.now.Add(time.Minute).UnixMilli()))
	if got := w.reason(w.apiKey); got != "" {
		t.Errorf("key with an end: %q", got)
	}
	opened := w.token(t, func(c *Claims) { c.Subject, c.Session = "sa_bot", "k_1" })
	if got := w.reason(opened); got != "" {
		t.Errorf("token of a key with an end: %q", got)
	}
	w.now = w.now.Add(time.Minute)
	for _, w.connected = range []bool{true, false} {
		if got := w.reason(w.apiKey); got != "TOKEN_INVALID" {
			t.Errorf("key after its end: %q", got)
		}
		if got := w.reason(opened); got != "TOKEN_INVALID" {
			t.Errorf("its token: %q", got)
		}
	}
	w.connected = true
	w.fails = errors.New("the copy is gone")
	w.version++
	if got := w.reason(w.token(t, nil)); got != "NOT_READY" {
		t.Errorf("rows that cannot be read: %q", got)
	}
}

// TestGrace holds the rule for regions that are cut off against the clock.
func TestGrace(t *testing.T) {
	w := newWorld(t)
	known, unknown := w.token(t, nil), w.token(t, func(c *Claims) { c.ID = "t_2" })
	if got := w.reason(known); got != "" {
		t.Fatal(got)
	}
	w.now = w.now.Add(11 * time.Minute)
	if got := w.reason(known); got != "TOKEN_EXPIRED" {
		t.Errorf("connected: %q", got)
	}
	w.connected = false
	if got := w.reason(known); got != "" {
		t.Errorf("cut off, known: %q", got)
	}
	if got := w.reason(unknown); got != "TOKEN_EXPIRED" {
		t.Errorf("cut off, not known: %q", got)
	}
	w.add(meshdb.TableRevocations, value.Text("t_1"), value.Integer(0))
	if got := w.reason(known); got != "TOKEN_INVALID" {
		t.Errorf("cut off, revoked: %q", got)
	}
	w.clear(meshdb.TableRevocations)
	w.now = w.now.Add(30 * time.Minute)
	if got := w.reason(known); got != "TOKEN_EXPIRED" {
		t.Errorf("after the grace: %q", got)
	}
}

func TestWhatIsKeptIsBounded(t *testing.T) {
	w := newWorld(t)
	for i := range 500 {
		if got := w.reason(w.token(t, func(c *Claims) { c.ID = fmt.Sprint("t_", i) })); got != "" {
			t.Fatal(got)
		}
	}
	if n := w.verifier.known(); n > 64 || n < 16 {
		t.Errorf("%v credentials are kept, of at most 64", n)
	}
}

func TestRoles(t *testing.T) {
	roles := func(r ...string) *identity.Principal {
		return &identity.Principal{Kind: identity.User, ID: "u", Roles: r}
	}
	for _, test := range []struct {
		who      *identity.Principal
		right    Right
		database string
		want     string // the policy; "" is denied
	}{
		{roles("reader:shop"), RightRead, "shop", "reader:shop"},
		{roles("reader:shop"), RightWrite, "shop", ""},
		{roles("reader:shop"), RightRead, "shop2", ""},
		{roles("reader:shop"), RightRead, "sho", ""},
		{roles("reader:shop"), RightRead, "Shop", ""},
		{roles("writer:shop"), RightRead, "shop", "writer:shop"},
		{roles("writer:shop"), RightOwn, "shop", ""},
		{roles("owner:shop"), RightOwn, "shop", "owner:shop"},
		{roles("owner:shop"), RightAdmin, "shop", ""},
		{roles("owner:shop"), RightAdmin, "", ""},
		{roles("owner:_mesh"), RightRead, "_mesh", ""},
		{roles("owner:"), RightOwn, "", ""},
		{roles("admin:shop"), RightRead, "shop", ""},
		{roles("admin"), RightAdmin, "", "admin"},
		{roles("admin"), RightRead, "_mesh", "admin"},
		{roles(), RightAny, "", "authenticated"},
		{roles(), RightWrite, "", "authenticated"}, // of no database: the values that a region keeps for all
		{&identity.Principal{}, RightAny, "", ""},
		{&identity.Principal{Roles: []string{"admin"}}, RightAny, "", ""},
	} {
		d := Roles{}.Authorize(test.who, Question{Right: test.right, Database: test.database})
		if d.Allowed != (test.want != "") || d.Allowed && d.Policy != test.want || !d.Allowed && d.Policy != PolicyDefaultDeny {
			t.Errorf("%v, right %d of %q: %+v", test.who.Roles, test.right, test.database, d)
		}
	}
}

func TestQuestions(t *testing.T) {
	sql := func(text string) *datav1.ExecuteRequest {
		return &datav1.ExecuteRequest{Database: "shop", Statement: &datav1.Statement{Sql: text}}
	}
	for _, test := range []struct {
		procedure string
		msg       any
		want      Question
	}{
		{datav1connect.DataServiceGetProcedure, &datav1.GetRequest{Database: "shop", Table: "t"}, Question{Right: RightRead, Database: "shop", Table: "t"}},
		{datav1connect.DataServiceExecuteProcedure, sql("SELECT 1"), Question{Right: RightRead, Database: "shop"}},
		{datav1connect.DataServiceExecuteProcedure, sql("DELETE FROM t"), Question{Right: RightWrite, Database: "shop"}},
		{datav1connect.DataServiceDeleteDatabaseProcedure, &datav1.DeleteDatabaseRequest{Name: "shop"}, Question{Right: RightOwn, Database: "shop"}},
		{datav1connect.DataServiceCreateDatabaseProcedure, &datav1.CreateDatabaseRequest{Name: "shop"}, Question{Right: RightAdmin, Database: "shop"}},
		{datav1connect.DataServiceGetDatabaseProcedure, &datav1.GetDatabaseRequest{Name: "shop"}, Question{Right: RightRead, Database: "shop"}},
		{"/some.other.Service/Method", &datav1.Statement{}, Question{Right: RightAny}},
	} {
		test.want.Action = test.procedure
		if got := question(test.procedure, test.msg); got != test.want {
			t.Errorf("%s: %+v, want %+v", test.procedure, got, test.want)
		}
	}
}

func TestKnownCredentialsCostNoAllocation(t *testing.T) {
	w := newWorld(t)
	h := http.Header{"Authorization": {"Bearer " + w.token(t, nil)}}
	if _, err := w.verifier.Request(h); err != nil {
		t.Fatal(err)
	}
	n := testing.AllocsPerRun(100, func() {
		p, err := w.verifier.Request(h)
		if err != nil || !w.guard.MayNow(p, datav1connect.DataServiceGetProcedure, "shop", "t") {
			t.Fatal(err)
		}
	})
	if n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkCredential(b *testing.B) {
	w := newWorld(b)
	b.Run("known", func(b *testing.B) {
		h := http.Header{"Authorization": {"Bearer " + w.token(b, nil)}}
		b.ReportAllocs()
		for b.Loop() {
			p, err := w.verifier.Request(h)
			if err != nil || !w.guard.MayNow(p, datav1connect.DataServiceGetProcedure, "shop", "t") {
				b.Fatal(err)
			}
		}
	})
	b.Run("first", func(b *testing.B) {
		token := w.token(b, nil)
		s, err := w.verifier.state()
		if err != nil {
			b.Fatal(err)
		}
		b.ReportAllocs()
		for b.Loop() {
			if _, err := w.verifier.first(s, token, w.now); err != nil {
				b.Fatal(err)
			}
		}
	})
}
