package access

import (
	"context"
	"net/http"
	"net/url"
	"testing"
	"time"

	"github.com/nearside-dev/nearside/gen/nearside/auth/v1/authv1connect"
	"github.com/nearside-dev/nearside/gen/nearside/data/v1/datav1connect"
	"github.com/nearside-dev/nearside/internal/identity"
	"github.com/nearside-dev/nearside/internal/meshdb"
	"github.com/nearside-dev/nearside/internal/server"
	"github.com/nearside-dev/nearside/internal/value"
)

// shortGet answers what the guard lets through at once, or passes everything.
type shortGet struct {
	guard  *Guard
	passes bool
	served int
	caller *identity.Principal
}

func (s *shortGet) ServePrincipal(http.ResponseWriter, *http.Request, *identity.Principal) {}

func (s *shortGet) ExpressPrincipal(
	_ context.Context, _ *http.Request, p *identity.Principal, _ []byte, a *server.ExpressAnswer,
) bool {
	if s.passes || !s.guard.MayNow(p, datav1connect.DataServiceGetProcedure, "shop", "t") {
		return false
	}
	s.served, s.caller = s.served+1, p
	a.Bytes = append(a.Bytes, '!')
	return true
}

func (w *world) expressGet() (*shortGet, *Chain) {
	s := &shortGet{guard: w.guard}
	return s, NewChain(ChainOptions{Guard: w.guard, Next: http.NotFoundHandler(), Short: map[string]ShortHandler{
		datav1connect.DataServiceGetProcedure: s, authv1connect.AuthServiceAuthenticateProcedure: s,
	}})
}

func expressRequest(credential string) *http.Request {
	h := http.Header{}
	if credential != "" {
		h.Set("Authorization", "Bearer "+credential)
	}
	return &http.Request{
		Method: http.MethodPost, URL: &url.URL{Path: datav1connect.DataServiceGetProcedure}, Header: h, RemoteAddr: "10.0.0.1:4000",
	}
}

func TestExpressPassesTheChain(t *testing.T) {
	w := newWorld(t)
	short, chain := w.expressGet()
	for _, path := range []string{"/", datav1connect.DataServiceListProcedure, authv1connect.AuthServiceAuthenticateProcedure} {
		if chain.Express(path) != nil {
			t.Errorf("%s has a way past the general handlers", path)
		}
	}
	x := chain.Express(datav1connect.DataServiceGetProcedure)
	token := w.token(t, nil)
	ask := func(credential string) bool {
		a := &server.ExpressAnswer{}
		done := x.ServeExpress(t.Context(), expressRequest(credential), []byte("m"), a)
		if done != (len(a.Bytes) > 0) {
			t.Error("an answer that is none")
		}
		return done
	}
	for name, credential := range map[string]string{"none": "", "forged": token + "x", "unknown key": APIKeyPrefix + "x"} {
		if ask(credential) {
			t.Errorf("%s: answered", name)
		}
	}
	if !ask(token) || short.caller.ID != "u_ann" {
		t.Errorf("ann is not served: %v", short.caller)
	}
	w.clear(meshdb.TableAccountRoles)
	if ask(token) {
		t.Error("answered after the role was taken")
	}
	w.add(meshdb.TableAccountRoles, value.Text("u_ann"), value.Text("reader"), value.Text("shop"))
	if !ask(token) {
		t.Error("not answered with the role again")
	}
	w.now = w.now.Add(time.Hour)
	if ask(token) {
		t.Error("answered after the token's end")
	}
}

// What the short way leaves to the long one costs the caller one token, not two; and what a limit refuses none.
func TestExpressTakesTokensOnce(t *testing.T) {
	w := newWorld(t)
	text := value.Text
	w.add(meshdb.TableRateLimits, text("identity"), text(""), value.Real(1), value.Integer(3))
	w.add(meshdb.TableRateLimits, text("address"), text("10.0.0.1"), value.Real(1), value.Integer(100))
	w.add(meshdb.TableRateLimits, text("method"), text(""), value.Real(1), value.Integer(100))
	short, chain := w.expressGet()
	x := chain.Express(datav1connect.DataServiceGetProcedure)
	r := expressRequest(w.token(t, nil))
	ask := func() bool { return x.ServeExpress(t.Context(), r, []byte("m"), &server.ExpressAnswer{}) }
	short.passes = true
	for range 10 {
		if ask() {
			t.Fatal("answered")
		}
	}
	short.passes = false
	for range 3 {
		if !ask() {
			t.Fatal("not answered below the limit")
		}
	}
	for range 200 {
		if ask() {
			t.Fatal("answered above the limit")
		}
	}
	for key, want := range map[limitKey]float64{
		{scope: scopeMethod, subject: datav1connect.DataServiceGetProcedure}: 97, {scope: scopeAddress, subject: "10.0.0.1"}: 97,
	} {
		found := false
		for i := range w.guard.limits.shards {
			if b := w.guard.limits.shards[i].buckets[key]; b != nil {
				found = true
				if b.tokens != want {
					t.Errorf("%v has %v tokens, want %v", key, b.tokens, want)
				}
			}
		}
		if !found {
			t.Errorf("%v was not asked for any", key)
		}
	}
	w.now = w.now.Add(time.Second)
	if !ask() {
		t.Error("not answered after a while")
	}
}

func TestExpressCostsNoAllocation(t *testing.T) {
	w := newWorld(t)
	w.add(meshdb.TableRateLimits, value.Text("identity"), value.Text(""), value.Real(1e9), value.Integer(1e9))
	_, chain := w.expressGet()
	x, r, a := chain.Express(datav1connect.DataServiceGetProcedure), expressRequest(w.token(t, nil)), &server.ExpressAnswer{}
	message := []byte("m")
	n := testing.AllocsPerRun(100, func() {
		a.Bytes = a.Bytes[:0]
		if !x.ServeExpress(t.Context(), r, message, a) {
			t.Fatal("not answered")
		}
	})
	if n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkExpress(b *testing.B) {
	for _, limited := range []bool{false, true} {
		name := "without limits"
		if limited {
			name = "with the limit of an identity"
		}
		b.Run(name, func(b *testing.B) {
			w := newWorld(b)
			if limited {
				w.add(meshdb.TableRateLimits, value.Text("identity"), value.Text(""), value.Real(1e9), value.Integer(1e9))
			}
			_, chain := w.expressGet()
			x, r, a := chain.Express(datav1connect.DataServiceGetProcedure), expressRequest(w.token(b, nil)), &server.ExpressAnswer{}
			message := []byte("m")
			b.ReportAllocs()
			for b.Loop() {
				a.Bytes = a.Bytes[:0]
				if !x.ServeExpress(b.Context(), r, message, a) {
					b.Fatal("not answered")
				}
			}
		})
	}
}
