package services_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"

	"connectrpc.com/connect"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/dynamicpb"
	"google.golang.org/protobuf/types/known/durationpb"

	authv1 "github.com/nearside-dev/nearside/gen/nearside/auth/v1"
	"github.com/nearside-dev/nearside/gen/nearside/auth/v1/authv1connect"
	controlv1 "github.com/nearside-dev/nearside/gen/nearside/control/v1"
	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/internal/meshtest"
	"github.com/nearside-dev/nearside/internal/meshtest/echo"
	"github.com/nearside-dev/nearside/internal/meshtest/ruled"
	"github.com/nearside-dev/nearside/internal/rpcerr"
)

// checkedWays are those of ways, and those that matter for who has to read a message.
var checkedWays = append([]struct {
	name    string
	http2   bool
	bidi    bool
	options []connect.ClientOption
}{
	{"connect by GET with JSON and gzip", false, false, []connect.ClientOption{connect.WithHTTPGet(), connect.WithProtoJSON(), connect.WithSendGzip()}},
	{"connect with JSON and gzip over HTTP/2", true, true, []connect.ClientOption{connect.WithProtoJSON(), connect.WithSendGzip()}},
	{"gRPC with JSON", true, true, []connect.ClientOption{connect.WithGRPC(), connect.WithProtoJSON()}},
	{"gRPC-Web with JSON and gzip", false, false, []connect.ClientOption{connect.WithGRPCWeb(), connect.WithProtoJSON(), connect.WithSendGzip()}},
}, ways...)

// refused checks that an error is that of a field.
func refused(t *testing.T, what string, err error, field string) {
	t.Helper()
	if connect.CodeOf(err) != connect.CodeInvalidArgument || rpcerr.ReasonOf(err) != datav1.ErrorReason_ERROR_REASON_FIELD_INVALID {
		t.Errorf("%s: %v", what, err)
		return
	}
	e, _ := errors.AsType[*connect.Error](err)
	for _, d := range e.Details() {
		v, err := d.Value()
		if b, ok := v.(*errdetails.BadRequest); err == nil && ok && len(b.GetFieldViolations()) == 1 && b.GetFieldViolations()[0].GetField() == field {
			return
		}
	}
	t.Errorf("%s: no field %s in %v", what, field, e.Details())
}

// bad is an order that breaks the rule of badField.
const badField = "lines[0].parts[0].sku"

func bad() *dynamicpb.Message {
	return ruled.Order(strings.Replace(ruled.Good, "ink-2", ruled.Mark, 1))
}

// TestRequestsAreChecked has requests that break the rules of a service not reach it, by whatever way they come.
func TestRequestsAreChecked(t *testing.T) {
	for name, protocol := range map[string]controlv1.ServiceProtocol{
		"Connect": controlv1.ServiceProtocol_SERVICE_PROTOCOL_CONNECT, "gRPC alone": controlv1.ServiceProtocol_SERVICE_PROTOCOL_GRPC,
	} {
		t.Run(name, func(t *testing.T) {
			m := meshtest.Start(t, meshtest.Options{Regions: []string{"eu-west-1"}})
			h := ruled.NewHandler()
			var handler http.Handler = h
			if protocol == controlv1.ServiceProtocol_SERVICE_PROTOCOL_GRPC {
				handler = echo.OnlyGRPC(h)
			}
			register(t, m, "eu-west-1", &controlv1.RegisterServiceRequest{
				Endpoints: at(serve(t, "", handler).url), Protocol: protocol, Descriptors: ruled.Descriptors(ruled.File()),
			})
			for _, way := range checkedWays {
				t.Run(way.name, func(t *testing.T) {
					checkUnary(t, m, h, way.http2, way.options)
					checkStreams(t, m, h, way.http2, way.bidi, way.options)
				})
			}
			t.Run("REST", func(t *testing.T) { checkREST(t, m, h) })
			t.Run("GraphQL", func(t *testing.T) { checkGraphQL(t, m, h) })
		})
	}
}

func checkUnary(t *testing.T, m *meshtest.Mesh, h *ruled.Handler, http2 bool, options []connect.ClientOption) {
	c, base := client(t, http2), m.URL("eu-west-1")
	good := ruled.Order(ruled.Good)
	for _, procedure := range []string{ruled.Place, ruled.Find} {
		o := options
		if procedure == ruled.Find {
			o = append([]connect.ClientOption{connect.WithIdempotency(connect.IdempotencyNoSideEffects)}, o...)
		}
		call := ruled.Client(c, base, procedure, o...)
		res, err := call.CallUnary(t.Context(), connect.NewRequest(good))
		if err != nil || !proto.Equal(res.Msg, good) {
			t.Fatalf("%s: %v", procedure, err)
		}
		before := h.Requests(procedure)
		_, err = call.CallUnary(t.Context(), connect.NewRequest(bad()))
		refused(t, procedure, err, badField)
		if n := h.Requests(procedure); n != before {
			t.Errorf("%s: the service saw it", procedure)
		}
	}
}

func checkStreams(t *testing.T, m *meshtest.Mesh, h *ruled.Handler, http2, bidi bool, options []connect.ClientOption) {
	c, base := client(t, http2), m.URL("eu-west-1")
	good := ruled.Order(ruled.Good)
	watch := func(order *dynamicpb.Message) (n int, err error) {
		stream, err := ruled.Client(c, base, ruled.Watch, options...).CallServerStream(t.Context(), connect.NewRequest(order))
		if err != nil {
			return 0, err
		}
		for stream.Receive() {
			n++
		}
		_ = stream.Close()
		return n, stream.Err()
	}
	if n, err := watch(good); n != 1 || err != nil {
		t.Fatalf("watch: %d, %v", n, err)
	}
	before := h.Requests(ruled.Watch)
	_, err := watch(bad())
	refused(t, "watch", err, badField)
	if h.Requests(ruled.Watch) != before {
		t.Error("watch: the service saw it")
	}
	collect := func(orders ...*dynamicpb.Message) (*dynamicpb.Message, error) {
		stream := ruled.Client(c, base, ruled.Collect, options...).CallClientStream(t.Context())
		for _, order := range orders {
			if err := stream.Send(order); err != nil && !errors.Is(err, io.EOF) {
				return nil, err
			}
		}
		res, err := stream.CloseAndReceive()
		if err != nil {
			return nil, err
		}
		return res.Msg, nil
	}
	if res, err := collect(good, good); err != nil || !proto.Equal(res, good) {
		t.Fatalf("collect: %v", err)
	}
	_, err = collect(good, good, bad(), good)
	refused(t, "collect", err, badField)
	if h.Marked(ruled.Collect) != 0 {
		t.Error("collect: the service saw it")
	}
	if !bidi {
		return
	}
	talk := ruled.Client(c, base, ruled.Talk, options...).CallBidiStream(t.Context())
	for range 3 {
		if err := talk.Send(good); err != nil {
			t.Fatal(err)
		}
		if res, err := talk.Receive(); err != nil || !proto.Equal(res, good) {
			t.Fatalf("talk: %v", err)
		}
	}
	if err := talk.Send(bad()); err != nil && !errors.Is(err, io.EOF) {
		t.Fatal(err)
	}
	_, err = talk.Receive()
	refused(t, "talk", err, badField)
	_ = talk.CloseRequest()
	_ = talk.CloseResponse()
	if h.Marked(ruled.Talk) != 0 {
		t.Error("talk: the service saw it")
	}
}

// TestAStreamEndsBetweenTwoMessages has a bad message come while an answer has sent half of one of its own.
func TestAStreamEndsBetweenTwoMessages(t *testing.T) {
	m := meshtest.Start(t, meshtest.Options{Regions: []string{"eu-west-1"}})
	message := bytes.Repeat([]byte("x"), 1000)
	answer := append(binary.BigEndian.AppendUint32([]byte{0}, uint32(len(message))), message...)
	rest := make(chan struct{})
	e := serve(t, "", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != ruled.Talk {
			return
		}
		w.Header().Set("Content-Type", r.Header.Get("Content-Type"))
		_, _ = w.Write(answer[:500])
		_ = http.NewResponseController(w).Flush()
		select {
		case <-rest:
			_, _ = w.Write(answer[500:])
			_, _ = w.Write(answer) // which is beyond the end
			_ = http.NewResponseController(w).Flush()
		case <-r.Context().Done():
		}
		<-r.Context().Done()
	}))
	register(t, m, "eu-west-1", &controlv1.RegisterServiceRequest{Endpoints: at(e.url), Descriptors: ruled.Descriptors(ruled.File())})
	b, err := proto.Marshal(bad())
	if err != nil {
		t.Fatal(err)
	}
	in, out := io.Pipe()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, m.URL("eu-west-1")+ruled.Talk, in)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/connect+proto")
	res, err := client(t, true).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	got := make([]byte, 500)
	if _, err := io.ReadFull(res.Body, got); err != nil {
		t.Fatal(err)
	}
	if _, err := out.Write(append(binary.BigEndian.AppendUint32([]byte{0}, uint32(len(b))), b...)); err != nil {
		t.Fatal(err)
	}
	close(rest)
	more, err := io.ReadAll(res.Body)
	if got = slices.Concat(got, more); err != nil || !bytes.HasPrefix(got, answer) {
		t.Fatalf("%d bytes, %v", len(got), err)
	}
	// The gateway may have passed the second message on before it saw what was wrong.
	end := bytes.TrimPrefix(bytes.TrimPrefix(got, answer), answer)
	if len(end) < 5 || end[0] != 2 || !bytes.Contains(end, []byte(`"code":"invalid_argument"`)) {
		t.Errorf("the end is %q", end)
	}
	_ = out.Close()
}

// post sends a body and returns the answer.
func post(t *testing.T, target, kind string, body []byte, header ...string) (status int, text string, h http.Header) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, target, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	return send(t, req, kind, header...)
}

func send(t *testing.T, req *http.Request, kind string, header ...string) (status int, text string, h http.Header) {
	t.Helper()
	if kind != "" {
		req.Header.Set("Content-Type", kind)
	}
	for _, line := range header {
		name, v, _ := strings.Cut(line, ": ")
		req.Header.Add(name, v)
	}
	res, err := client(t, false).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, string(b), res.Header
}

func inJSON(t *testing.T, m proto.Message) []byte {
	t.Helper()
	b, err := protojson.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return bytes.ReplaceAll(b, []byte(`": `), []byte(`":`)) // protojson's spaces are random
}

func checkREST(t *testing.T, m *meshtest.Mesh, h *ruled.Handler) {
	target := m.URL("eu-west-1") + "/acme/v1/orders"
	if status, text, _ := post(t, target, "application/json", inJSON(t, ruled.Order(ruled.Good))); status != http.StatusCreated {
		t.Fatalf("%d %s", status, text)
	}
	before := h.Requests(ruled.Place)
	status, text, head := post(t, target, "application/json", inJSON(t, bad()))
	if status != http.StatusBadRequest || head.Get("Content-Type") != "application/problem+json" ||
		!strings.Contains(text, `"errors":[{"field":"`+badField+`","detail":"is no SKU"}]`) || !strings.Contains(text, `"code":"invalid_argument"`) {
		t.Errorf("%d %s", status, text)
	}
	if h.Requests(ruled.Place) != before {
		t.Error("the service saw it")
	}
}

func checkGraphQL(t *testing.T, m *meshtest.Mesh, h *ruled.Handler) {
	target := m.URL("eu-west-1") + "/graphql"
	ask := func(sku string) string {
		query := fmt.Sprintf(`mutation { orderPlace(id: "0190a9b2-7c1e-4b43-8a52-6d1f2e3c4b5a", quantity: 3, product: "pen", address: {city: "Oslo"}, `+
			`card: "1", lines: [{sku: "pen-1", parts: [{sku: %q}]}]) { product } }`, sku)
		_, text, _ := post(t, target, "application/json", fmt.Appendf(nil, `{"query":%q}`, query))
		return text
	}
	if text := ask("ink-2"); text != `{"data":{"orderPlace":{"product":"pen"}}}` {
		t.Fatal(text)
	}
	before, watched := h.Requests(ruled.Place), h.Requests(ruled.Watch)
	if text := ask("INK"); !strings.Contains(text, `"code":"invalid_argument"`) || !strings.Contains(text, `"reason":"FIELD_INVALID"`) ||
		!strings.Contains(text, `{"field":"`+badField+`","detail":"is no SKU"}`) {
		t.Error(text)
	}
	if h.Requests(ruled.Place) != before {
		t.Error("the service saw it")
	}
	status, text, _ := post(t, target, "application/json",
		[]byte(`{"query":"subscription { orderWatch(id: \"x\", quantity: 3, product: \"pen\", address: {city: \"Oslo\"}, card: \"1\") { product } }"}`), "Accept: text/event-stream")
	if !strings.Contains(text, `"code":"invalid_argument"`) || !strings.Contains(text, `{"field":"id","detail":"must be a valid UUID"}`) {
		t.Errorf("a subscription: %d %s", status, text)
	}
	if h.Requests(ruled.Watch) != watched {
		t.Error("the service saw the subscription")
	}
}

// TestCheckedBeforeAllowed has requests checked once their caller is known, and before it counts what they may; and no answer that is
// kept given to one that is not well.
func TestCheckedBeforeAllowed(t *testing.T) {
	m := meshtest.Start(t, meshtest.Options{Auth: true, Regions: []string{"eu-west-1"}})
	h := ruled.NewHandler()
	req := &controlv1.RegisterServiceRequest{
		Endpoints: at(serve(t, "", h).url), Descriptors: ruled.Descriptors(ruled.File()),
		Access: controlv1.ServiceAccess_SERVICE_ACCESS_ROLE, Role: "reader:shop",
	}
	register(t, m, "eu-west-1", req)
	call := func(token string, order *dynamicpb.Message) error {
		req := connect.NewRequest(order)
		if token != "" {
			req.Header().Set("Authorization", "Bearer "+token)
		}
		_, err := ruled.Client(client(t, false), m.URL("eu-west-1"), ruled.Find).CallUnary(t.Context(), req)
		return err
	}
	nobody := reader(t, m, "ann")
	if err := call("", bad()); connect.CodeOf(err) != connect.CodeUnauthenticated {
		t.Errorf("who is not known: %v", err)
	}
	refused(t, "who is known and may not", call(nobody, bad()), badField)
	if err := call(nobody, ruled.Order(ruled.Good)); connect.CodeOf(err) != connect.CodePermissionDenied {
		t.Errorf("who may not, with a good one: %v", err)
	}
	if h.Requests(ruled.Find) != 0 {
		t.Error("the service was asked")
	}
	// The answer to an order is kept by its product alone.
	req.CacheRules = []*controlv1.CacheRule{{Method: "Find", Ttl: durationpb.New(1e12), KeyFields: []string{"product"}}}
	req.Access, req.Role = controlv1.ServiceAccess_SERVICE_ACCESS_AUTHENTICATED, ""
	register(t, m, "eu-west-1", req)
	for range 3 {
		if err := call(nobody, ruled.Order(ruled.Good)); err != nil {
			t.Fatal(err)
		}
	}
	if n := h.Requests(ruled.Find); n != 1 {
		t.Errorf("the answer is not kept: %d calls", n)
	}
	refused(t, "an answer that is kept", call(nobody, bad()), badField)
	// Policies are asked then, too.
	policies := authv1connect.NewPolicyServiceClient(m.HTTP(), m.URL("eu-west-1"))
	if _, err := policies.PutPolicy(t.Context(), connect.NewRequest(&authv1.PutPolicyRequest{Policy: &authv1.Policy{
		Name: "no-orders", Text: `forbid (principal, action, resource == Api::"` + ruled.Find[1:] + `");`,
	}})); err != nil {
		t.Fatal(err)
	}
	refused(t, "whom a policy forbids it", call(nobody, bad()), badField)
	if err := call(nobody, ruled.Order(ruled.Good)); connect.CodeOf(err) != connect.CodePermissionDenied || !strings.Contains(detail(err), "policy:no-orders") {
		t.Errorf("whom a policy forbids it, with a good one: %v", err)
	}
}

// detail is the policy that an error names.
func detail(err error) string {
	e, _ := rpcerr.FromError(err)
	return e.Metadata("policy")
}

// TestRulesChange has new rules apply as soon as they are registered, none where nobody wants them, and what are no rules refused.
func TestRulesChange(t *testing.T) {
	m := meshtest.Start(t, meshtest.Options{Regions: []string{"eu-west-1"}})
	h := ruled.NewHandler()
	file := ruled.File()
	req := &controlv1.RegisterServiceRequest{Endpoints: at(serve(t, "", h).url), Descriptors: ruled.Descriptors(file)}
	register(t, m, "eu-west-1", req)
	c := ruled.Client(client(t, false), m.URL("eu-west-1"), ruled.Place)
	call := func(text string) error {
		_, err := c.CallUnary(t.Context(), connect.NewRequest(ruled.Order(text)))
		return err
	}
	short := strings.Replace(ruled.Good, `"pen"`, `"p"`, 1)
	refused(t, "as it was", call(short), "product")
	product := file.GetMessageType()[0].GetField()[2]
	if err := prototext.Unmarshal([]byte(`[buf.validate.field] { string { max_len: 2 } }`), product.GetOptions()); err != nil {
		t.Fatal(err)
	}
	req.Descriptors = ruled.Descriptors(file)
	register(t, m, "eu-west-1", req)
	refused(t, "as it is now", call(ruled.Good), "product")
	if err := call(short); err != nil {
		t.Errorf("as it is now: %v", err)
	}
	if err := prototext.Unmarshal([]byte(`[buf.validate.field] { string { pattern: "(" } }`), product.GetOptions()); err != nil {
		t.Fatal(err)
	}
	req.Descriptors = ruled.Descriptors(file)
	_, err := registry(m, "eu-west-1").RegisterService(t.Context(), connect.NewRequest(req))
	refused(t, "no pattern", err, "descriptors")
	if err == nil || !strings.Contains(err.Error(), "acme.orders.v1.Order.product") {
		t.Errorf("the field is not named: %v", err)
	}
	refused(t, "what was there stays", call(ruled.Good), "product")
	req.SkipValidation = true
	register(t, m, "eu-west-1", req)
	if err := call(ruled.Good); err != nil {
		t.Errorf("nothing is checked: %v", err)
	}
	list, err := registry(m, "eu-west-1").ListServices(t.Context(), connect.NewRequest(&controlv1.ListServicesRequest{}))
	if err != nil || !list.Msg.GetServices()[0].GetSkipValidation() || list.Msg.GetServices()[0].GetMethods()[3].GetValidated() {
		t.Errorf("%v %v", list, err)
	}
}
