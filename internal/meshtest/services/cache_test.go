package services_test

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	authv1 "github.com/nearside-dev/nearside/gen/nearside/auth/v1"
	"github.com/nearside-dev/nearside/gen/nearside/auth/v1/authv1connect"
	controlv1 "github.com/nearside-dev/nearside/gen/nearside/control/v1"
	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/gen/nearside/data/v1/datav1connect"
	"github.com/nearside-dev/nearside/internal/meshtest"
	"github.com/nearside-dev/nearside/internal/meshtest/echo"
	"github.com/nearside-dev/nearside/internal/rpcerr"
	"github.com/nearside-dev/nearside/internal/rpcheader"
)

// counting is the echo service; it counts calls.
type counting struct {
	http.Handler

	calls atomic.Int64
	hold  atomic.Pointer[chan struct{}] // closed to let calls go on
}

func (c *counting) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == echo.Get {
		c.calls.Add(1)
		if hold := c.hold.Load(); hold != nil {
			<-*hold
		}
	}
	c.Handler.ServeHTTP(w, r)
}

// cached is a mesh with a service whose answers are kept by a rule.
func cached(t *testing.T, rule *controlv1.CacheRule) (*meshtest.Mesh, *counting) {
	t.Helper()
	m := meshtest.Start(t, meshtest.Options{})
	m.Create("shop")
	execute(t, m, "CREATE TABLE items (id INTEGER PRIMARY KEY, n INTEGER)")
	c := &counting{Handler: echo.Handler()}
	rule.Method = "Get"
	register(t, m, "eu-west-1", &controlv1.RegisterServiceRequest{
		Endpoints: at(serve(t, "", c).url), Access: controlv1.ServiceAccess_SERVICE_ACCESS_PUBLIC, CacheRules: []*controlv1.CacheRule{rule},
	})
	m.WaitSync("shop")
	return m, c
}

func execute(t *testing.T, m *meshtest.Mesh, sql string) (bookmark string) {
	t.Helper()
	res, err := m.Client("").Execute(t.Context(), connect.NewRequest(&datav1.ExecuteRequest{
		Database: "shop", Statement: &datav1.Statement{Sql: sql},
	}))
	if err != nil {
		t.Fatal(err)
	}
	return res.Msg.GetAnswer().GetBookmark()
}

// get calls the service and checks how many calls it has had then, and where the answer is from.
func (c *counting) get(t *testing.T, m *meshtest.Mesh, text, bookmark string, calls int64, source string, options ...connect.ClientOption) {
	t.Helper()
	req := connect.NewRequest(wrapperspb.String(text))
	if bookmark != "" {
		req.Header().Set(rpcheader.Bookmark, bookmark)
	}
	res, err := unary(client(t, false), m.URL("eu-west-1"), echo.Get, options...).CallUnary(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	if got := res.Header().Get(rpcheader.Source); c.calls.Load() != calls || got != source || res.Msg.GetValue() != text {
		t.Errorf("%s: %q from %q after %d calls, want %q after %d", text, res.Msg.GetValue(), got, c.calls.Load(), source, calls)
	}
	if res.Trailer().Get("Echo-Trailer") != "yes" {
		t.Errorf("%s: no trailer", text)
	}
}

func TestAnswersAreKept(t *testing.T) {
	m, c := cached(t, &controlv1.CacheRule{Ttl: durationpb.New(time.Hour), Database: "shop", Tables: []string{"items"}})
	json, byGet, web := connect.WithProtoJSON(), connect.WithHTTPGet(), connect.WithGRPCWeb()
	c.get(t, m, "a", "", 1, "")
	for range 3 {
		c.get(t, m, "a", "", 1, "MEMORY")
	}
	c.get(t, m, "b", "", 2, "")
	c.get(t, m, "a", "", 3, "", json)
	c.get(t, m, "a", "", 3, "MEMORY", json)
	c.get(t, m, "a", "", 3, "MEMORY", byGet)
	c.get(t, m, "a", "", 4, "", web)
	c.get(t, m, "a", "", 4, "MEMORY", web)
	for range 2 { // errors are not kept
		_, err := unary(client(t, false), m.URL("eu-west-1"), echo.Get).CallUnary(t.Context(), connect.NewRequest(wrapperspb.String("fail")))
		if connect.CodeOf(err) != connect.CodeNotFound {
			t.Errorf("got %v", err)
		}
	}
	if n := c.calls.Load(); n != 6 {
		t.Errorf("%d calls, want 6", n)
	}
	c.calls.Store(0)
	execute(t, m, "CREATE TABLE other (id INTEGER PRIMARY KEY)")
	m.WaitSync("shop")
	c.get(t, m, "a", "", 1, "") // a change of the schema invalidates all
	for n := range int64(3) {
		// Who has written is given no answer from before, at once.
		c.get(t, m, "a", execute(t, m, "INSERT INTO items (n) VALUES (1)"), n+2, "")
		m.WaitSync("shop")
		execute(t, m, "INSERT INTO other VALUES (NULL)")
		m.WaitSync("shop")
	}
	n := c.calls.Load()
	c.get(t, m, "c", "", n+1, "")
	bookmark := execute(t, m, "INSERT INTO other VALUES (NULL)")
	m.WaitSync("shop")
	c.get(t, m, "c", bookmark, n+1, "MEMORY") // another table's change leaves it as it is
}

// TestAnswersOfEveryProtocol: three callers of a service that is not for everybody, two of whom may do the same, call in every protocol, to one that speaks them all
// and to one that knows gRPC alone. Each gets what the service said to them, framed as they asked, and each question is asked once.
func TestAnswersOfEveryProtocol(t *testing.T) {
	m := meshtest.Start(t, meshtest.Options{Auth: true})
	tokens := []string{m.AdminToken(), reader(t, m, "ann"), reader(t, m, "bob")}
	for name, of := range map[string]struct {
		protocol controlv1.ServiceProtocol
		handler  http.Handler
	}{
		"every protocol": {controlv1.ServiceProtocol_SERVICE_PROTOCOL_CONNECT, echo.Handler(connect.WithCompressMinBytes(100))},
		"gRPC alone":     {controlv1.ServiceProtocol_SERVICE_PROTOCOL_GRPC, echo.OnlyGRPC(echo.Handler(connect.WithCompressMinBytes(100)))},
	} {
		c := &counting{Handler: of.handler}
		register(t, m, "eu-west-1", &controlv1.RegisterServiceRequest{
			Endpoints: at(serve(t, "", c).url), Protocol: of.protocol, CacheRules: []*controlv1.CacheRule{{Method: "Get", Ttl: durationpb.New(time.Hour)}},
		})
		subjects := make([]string, len(tokens)) // as the service saw them
		for _, way := range ways {
			c.calls.Store(0)
			for round := range 3 {
				for i, token := range tokens {
					for _, text := range []string{"", name + way.name, strings.Repeat(name+way.name, 100)} {
						req := connect.NewRequest(wrapperspb.String(text))
						req.Header().Set("Authorization", "Bearer "+token)
						o := append(slices.Clip(way.options), connect.WithIdempotency(connect.IdempotencyNoSideEffects))
						res, err := unary(client(t, way.http2), m.URL("eu-west-1"), echo.Get, o...).CallUnary(t.Context(), req)
						if err != nil {
							t.Fatalf("%s, %s: %v", name, way.name, err)
						}
						subject := res.Header().Get("Seen-Subject")
						if subjects[i] == "" && !slices.Contains(subjects, subject) {
							subjects[i] = subject
						}
						if res.Msg.GetValue() != text || res.Trailer().Get("Echo-Trailer") != "yes" || subject == "" || subject != subjects[i] {
							t.Errorf("%s, %s, caller %d: %d bytes for %q, trailers %v", name, way.name, i, len(res.Msg.GetValue()), subject, res.Trailer())
						}
						if got := res.Header().Get(rpcheader.Source); round > 0 && got != "MEMORY" {
							t.Errorf("%s, %s, caller %d: from %q", name, way.name, i, got)
						}
					}
				}
			}
			// Where another way has asked already in the same words, there is nothing to ask.
			if n := c.calls.Load(); n > 9 || n < 6 && of.protocol == controlv1.ServiceProtocol_SERVICE_PROTOCOL_CONNECT {
				t.Errorf("%s, %s: %d calls", name, way.name, n)
			}
			_, err := unary(client(t, way.http2), m.URL("eu-west-1"), echo.Get, way.options...).CallUnary(t.Context(), connect.NewRequest(wrapperspb.String("")))
			if connect.CodeOf(err) != connect.CodeUnauthenticated {
				t.Errorf("%s, %s: nobody is told %v", name, way.name, err)
			}
		}
	}
}

// reader returns the token of a user who has logged in.
func reader(t *testing.T, m *meshtest.Mesh, name string) string {
	t.Helper()
	const password = "a password for a while"
	accounts := authv1connect.NewAccountServiceClient(m.HTTP(), m.URL("eu-west-1"))
	if _, err := accounts.CreateAccount(t.Context(), connect.NewRequest(&authv1.CreateAccountRequest{
		Kind: authv1.AccountKind_ACCOUNT_KIND_USER, Name: name, Password: password,
	})); err != nil {
		t.Fatal(err)
	}
	res, err := authv1connect.NewAuthServiceClient(m.HTTP(), m.URL("eu-west-1")).Authenticate(t.Context(), connect.NewRequest(&authv1.AuthenticateRequest{
		Credential: &authv1.AuthenticateRequest_Password_{Password: &authv1.AuthenticateRequest_Password{Name: name, Password: password}},
	}))
	if err != nil {
		t.Fatal(err)
	}
	return res.Msg.GetTokens().GetAccessToken()
}

// TestAnswersThatAreNotShared by callers with credentials of a service's own, where the mesh knows nobody, nor with what was registered before.
func TestAnswersThatAreNotShared(t *testing.T) {
	rule := &controlv1.CacheRule{Ttl: durationpb.New(time.Hour)}
	m, c := cached(t, rule)
	c.get(t, m, "a", "", 1, "")
	c.get(t, m, "a", "", 1, "MEMORY")
	register(t, m, "eu-west-1", &controlv1.RegisterServiceRequest{
		Endpoints: at(serve(t, "", c).url), Access: controlv1.ServiceAccess_SERVICE_ACCESS_AUTHENTICATED, PassCredentials: true,
		CacheRules: []*controlv1.CacheRule{rule},
	})
	m.WaitSync("shop")
	meshtest.Eventually(t, "the registration is there", func(ctx context.Context) error {
		res, err := unary(client(t, false), m.URL("eu-west-1"), echo.Get).CallUnary(ctx, connect.NewRequest(wrapperspb.String("a")))
		if err == nil && c.calls.Load() == 1 {
			err = fmt.Errorf("%q is from before", res.Msg.GetValue())
		}
		return err
	})
	n := c.calls.Load()
	for i, credential := range []string{"ann", "bob", "ann"} {
		req := connect.NewRequest(wrapperspb.String("b"))
		req.Header().Set("Authorization", "Custom "+credential)
		if _, err := unary(client(t, false), m.URL("eu-west-1"), echo.Get).CallUnary(t.Context(), req); err != nil {
			t.Fatal(err)
		}
		if got := c.calls.Load() - n; got != int64(i)+1 {
			t.Errorf("%s: %d calls, want %d", credential, got, i+1)
		}
	}
}

func TestAnswersAreMadeAnew(t *testing.T) {
	m, c := cached(t, &controlv1.CacheRule{Ttl: durationpb.New(time.Millisecond), Stale: durationpb.New(time.Hour)})
	c.get(t, m, "a", "", 1, "")
	meshtest.Eventually(t, "an old answer is given and made anew", func(context.Context) error {
		req := connect.NewRequest(wrapperspb.String("a"))
		res, err := unary(client(t, false), m.URL("eu-west-1"), echo.Get).CallUnary(t.Context(), req)
		if err != nil {
			return err
		}
		if got := res.Header().Get(rpcheader.Source); got != "MEMORY" {
			return fmt.Errorf("from %q", got)
		}
		if n := c.calls.Load(); n < 3 {
			return fmt.Errorf("%d calls", n)
		}
		return nil
	})
}

// TestOneCallForMany has many callers ask for what is not kept yet.
func TestOneCallForMany(t *testing.T) {
	m, c := cached(t, &controlv1.CacheRule{Ttl: durationpb.New(time.Hour)})
	hold := make(chan struct{})
	c.hold.Store(&hold)
	var asking sync.WaitGroup
	for range 20 {
		asking.Go(func() {
			res, err := unary(client(t, false), m.URL("eu-west-1"), echo.Get).CallUnary(t.Context(), connect.NewRequest(wrapperspb.String("a")))
			if err != nil || res.Msg.GetValue() != "a" {
				t.Errorf("%v, %v", res, err)
			}
		})
	}
	meshtest.Eventually(t, "the first call is there", func(context.Context) error {
		if c.calls.Load() == 0 {
			return fmt.Errorf("no call")
		}
		return nil
	})
	// Who has less time than the others' call takes is told so.
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, m.URL("eu-west-1")+echo.Get, strings.NewReader("\x0a\x01a"))
	if err != nil {
		t.Fatal(err)
	}
	req.Header = http.Header{"Content-Type": {"application/proto"}, "Connect-Timeout-Ms": {"20"}}
	if res, err := client(t, false).Do(req); err != nil || res.StatusCode != http.StatusGatewayTimeout {
		t.Errorf("%v, %v", res, err)
	} else if err := res.Body.Close(); err != nil {
		t.Error(err)
	}
	close(hold)
	asking.Wait()
	if n := c.calls.Load(); n != 1 {
		t.Errorf("%d calls", n)
	}
	invalidate := connect.NewRequest(&datav1.CacheServiceInvalidateRequest{
		Target: &datav1.CacheServiceInvalidateRequest_Tag{Tag: echo.Get},
	})
	cache := datav1connect.NewCacheServiceClient(m.HTTP(), m.URL("eu-west-1"))
	if _, err := cache.Invalidate(t.Context(), invalidate); err != nil {
		t.Fatal(err)
	}
	c.get(t, m, "a", "", 2, "")
}

func TestRulesThatDoNotFit(t *testing.T) {
	m := meshtest.Start(t, meshtest.Options{Regions: []string{"us-east-1"}})
	ttl := durationpb.New(time.Second)
	for field, rules := range map[string][]*controlv1.CacheRule{
		"cache_rules[0].method":        {{Method: "Nothing", Ttl: ttl}},
		"cache_rules[1].method":        {{Method: "Get", Ttl: ttl}, {Method: "Get", Ttl: ttl}},
		"cache_rules[0].ttl":           {{Method: "Get", Ttl: durationpb.New(48 * time.Hour)}},
		"cache_rules[0].stale":         {{Method: "Get", Ttl: ttl, Stale: durationpb.New(-1)}},
		"cache_rules[0].key_fields[0]": {{Method: "Get", Ttl: ttl, KeyFields: []string{"value.more"}}},
		"cache_rules[0].database":      {{Method: "Get", Ttl: ttl, Tables: []string{"items"}}},
	} {
		_, err := registry(m, "us-east-1").RegisterService(t.Context(), connect.NewRequest(&controlv1.RegisterServiceRequest{
			Descriptors: echo.Descriptors(), Endpoints: at("http://127.0.0.1:1"), CacheRules: rules,
		}))
		if rpcerr.ReasonOf(err) != datav1.ErrorReason_ERROR_REASON_FIELD_INVALID || !strings.Contains(err.Error(), field+": ") {
			t.Errorf("%s: %v", field, err)
		}
	}
	for _, method := range []string{"Echo", "Count"} { // it has side effects; it streams
		_, err := registry(m, "us-east-1").RegisterService(t.Context(), connect.NewRequest(&controlv1.RegisterServiceRequest{
			Descriptors: echo.Descriptors(), Endpoints: at("http://127.0.0.1:1"), CacheRules: []*controlv1.CacheRule{{Method: method, Ttl: ttl}},
		}))
		if rpcerr.ReasonOf(err) != datav1.ErrorReason_ERROR_REASON_FIELD_INVALID {
			t.Errorf("%s: %v", method, err)
		}
	}
}
