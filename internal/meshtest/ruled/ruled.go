// Package ruled is a service that the mesh knows nothing of and whose requests have rules of buf.validate:
// acme.orders.v1.OrderService, made with Connect's library alone. It does not look at the rules; it counts what reaches it.
package ruled

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"sync/atomic"

	_ "buf.build/gen/go/bufbuild/protovalidate/protocolbuffers/go/buf/validate" // the file imports it
	"connectrpc.com/connect"
	_ "google.golang.org/genproto/googleapis/api/annotations" // and this
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/dynamicpb"
	_ "google.golang.org/protobuf/types/known/anypb"      // orders import it
	_ "google.golang.org/protobuf/types/known/wrapperspb" // and this

	"github.com/nearside-dev/nearside/internal/meshtest/fileset"
)

// The service's names.
const (
	Name = "acme.orders.v1.OrderService"

	Place   = "/" + Name + "/Place"   // answers the order that it was sent
	Find    = "/" + Name + "/Find"    // the same, without side effects
	Watch   = "/" + Name + "/Watch"   // the same as a stream
	Collect = "/" + Name + "/Collect" // answers the last of the orders that it was sent
	Talk    = "/" + Name + "/Talk"    // answers each order at once
	Free    = "/" + Name + "/Free"    // a method whose requests have no rule
)

const orders = `
name: "acme/orders/v1/orders.proto" package: "acme.orders.v1" syntax: "proto3"
dependency: "buf/validate/validate.proto" dependency: "google/api/annotations.proto"
dependency: "google/protobuf/any.proto" dependency: "google/protobuf/wrappers.proto"
message_type { name: "Order"
  field { name: "id" json_name: "id" number: 1 type: TYPE_STRING label: LABEL_OPTIONAL options { [buf.validate.field] { string { uuid: true } } } }
  field { name: "quantity" json_name: "quantity" number: 2 type: TYPE_INT32 label: LABEL_OPTIONAL options { [buf.validate.field] { int32 { gte: 1 lte: 100 } } } }
  field { name: "product" json_name: "product" number: 3 type: TYPE_STRING label: LABEL_OPTIONAL options { [buf.validate.field] { string { min_len: 2 } } } }
  field { name: "address" json_name: "address" number: 4 type: TYPE_MESSAGE type_name: ".acme.orders.v1.Address" label: LABEL_OPTIONAL options { [buf.validate.field] { required: true } } }
  field { name: "card" json_name: "card" number: 5 type: TYPE_STRING label: LABEL_OPTIONAL oneof_index: 0 }
  field { name: "invoice" json_name: "invoice" number: 6 type: TYPE_STRING label: LABEL_OPTIONAL oneof_index: 0 }
  field { name: "lines" json_name: "lines" number: 7 type: TYPE_MESSAGE type_name: ".acme.orders.v1.Line" label: LABEL_REPEATED }
  field { name: "labels" json_name: "labels" number: 8 type: TYPE_MESSAGE type_name: ".acme.orders.v1.Order.LabelsEntry" label: LABEL_REPEATED options { [buf.validate.field] { map { values { string { max_len: 3 } } } } } }
  field { name: "tags" json_name: "tags" number: 9 type: TYPE_STRING label: LABEL_REPEATED options { [buf.validate.field] { repeated { unique: true items { string { min_len: 1 } } } } } }
  field { name: "extra" json_name: "extra" number: 10 type: TYPE_MESSAGE type_name: ".google.protobuf.Any" label: LABEL_OPTIONAL }
  nested_type { name: "LabelsEntry" options { map_entry: true }
    field { name: "key" json_name: "key" number: 1 type: TYPE_STRING label: LABEL_OPTIONAL }
    field { name: "value" json_name: "value" number: 2 type: TYPE_STRING label: LABEL_OPTIONAL } }
  oneof_decl { name: "payment" options { [buf.validate.oneof] { required: true } } }
  options { [buf.validate.message] { cel { id: "bulk" message: "more than 50 are paid by invoice" expression: "this.quantity <= 50 || has(this.invoice)" } } } }
message_type { name: "Address"
  field { name: "city" json_name: "city" number: 1 type: TYPE_STRING label: LABEL_OPTIONAL options { [buf.validate.field] { string { min_len: 1 } } } } }
message_type { name: "Line"
  field { name: "sku" json_name: "sku" number: 1 type: TYPE_STRING label: LABEL_OPTIONAL options { [buf.validate.field] { cel { id: "sku" message: "is no SKU" expression: "this.matches('^[a-z]+-[0-9]+$')" } } } }
  field { name: "parts" json_name: "parts" number: 2 type: TYPE_MESSAGE type_name: ".acme.orders.v1.Line" label: LABEL_REPEATED } }
service { name: "OrderService"
  method { name: "Place" input_type: ".acme.orders.v1.Order" output_type: ".acme.orders.v1.Order" options { [google.api.http] { post: "/acme/v1/orders" body: "*" } } }
  method { name: "Find" input_type: ".acme.orders.v1.Order" output_type: ".acme.orders.v1.Order" options { idempotency_level: NO_SIDE_EFFECTS } }
  method { name: "Watch" input_type: ".acme.orders.v1.Order" output_type: ".acme.orders.v1.Order" server_streaming: true }
  method { name: "Collect" input_type: ".acme.orders.v1.Order" output_type: ".acme.orders.v1.Order" client_streaming: true }
  method { name: "Talk" input_type: ".acme.orders.v1.Order" output_type: ".acme.orders.v1.Order" client_streaming: true server_streaming: true }
  method { name: "Free" input_type: ".google.protobuf.StringValue" output_type: ".google.protobuf.StringValue" } }`

// File returns the service's file, to be changed.
func File() *descriptorpb.FileDescriptorProto {
	file := new(descriptorpb.FileDescriptorProto)
	if err := prototext.Unmarshal([]byte(orders), file); err != nil {
		panic(err) // it is always the same
	}
	return file
}

// Descriptors returns a FileDescriptorSet of a file and of all that it imports, as buf build or protoc would write it.
func Descriptors(file *descriptorpb.FileDescriptorProto) []byte {
	f, err := protodesc.NewFile(file, protoregistry.GlobalFiles)
	if err != nil {
		panic(err) // it is a test's
	}
	return fileset.Of(f)
}

// service is the service as its handlers and clients see it.
var service = func() protoreflect.ServiceDescriptor {
	f, err := protodesc.NewFile(File(), protoregistry.GlobalFiles)
	if err != nil {
		panic(err) // it is always the same
	}
	return f.Services().Get(0)
}()

// Method returns a method by its procedure.
func Method(procedure string) protoreflect.MethodDescriptor {
	return service.Methods().ByName(protoreflect.FullName(procedure[len("/"+Name+"/"):]).Name())
}

// Order returns an order of the text of its message; Good is one that breaks no rule.
func Order(text string) *dynamicpb.Message {
	m := dynamicpb.NewMessage(Method(Place).Input())
	if err := prototext.Unmarshal([]byte(text), m); err != nil {
		panic(err) // it is a test's
	}
	return m
}

// Good breaks no rule.
const Good = `id: "0190a9b2-7c1e-4b43-8a52-6d1f2e3c4b5a" quantity: 3 product: "pen" address { city: "Oslo" } card: "1" ` +
	`lines { sku: "pen-1" parts { sku: "ink-2" } } labels { key: "a" value: "b" } tags: "x" tags: "y"`

// initialize gives a dynamic message its type.
func initialize(spec connect.Spec, msg any) error {
	if m, ok := msg.(*dynamicpb.Message); ok && !m.IsValid() {
		method, ok := spec.Schema.(protoreflect.MethodDescriptor)
		if !ok {
			return errors.New("no schema")
		}
		d := method.Input()
		if spec.IsClient {
			d = method.Output()
		}
		*m = *dynamicpb.NewMessage(d)
	}
	return nil
}

// Client returns a client of a method.
func Client(c *http.Client, base, procedure string, options ...connect.ClientOption) *connect.Client[dynamicpb.Message, dynamicpb.Message] {
	return connect.NewClient[dynamicpb.Message, dynamicpb.Message](c, base+procedure, append(options,
		connect.WithSchema(Method(procedure)), connect.WithResponseInitializer(initialize))...)
}

// Handler answers the service.
type Handler struct {
	http.Handler

	counts map[string]*counts
}

type counts struct{ messages, requests, marked atomic.Int64 }

// Mark is a SKU that breaks its rule, and by which messages of streams are told apart that should never reach the service.
const Mark = "INK"

// Marked returns how many messages of a method with Mark in them have reached the service.
func (h *Handler) Marked(procedure string) int64 { return h.counts[procedure].marked.Load() }

// Messages returns how many messages of a method have reached the service.
func (h *Handler) Messages(procedure string) int64 { return h.counts[procedure].messages.Load() }

// Requests returns how many requests, whatever became of them.
func (h *Handler) Requests(procedure string) int64 { return h.counts[procedure].requests.Load() }

func (h *Handler) saw(procedure string, m *dynamicpb.Message) {
	c := h.counts[procedure]
	c.messages.Add(1)
	if strings.Contains(m.String(), Mark) {
		c.marked.Add(1)
	}
}

// NewHandler returns a Handler.
func NewHandler() *Handler {
	h := &Handler{counts: make(map[string]*counts)}
	for _, procedure := range []string{Place, Find, Watch, Collect, Talk, Free} {
		h.counts[procedure] = new(counts)
	}
	mux := http.NewServeMux()
	options := func(procedure string) []connect.HandlerOption {
		return []connect.HandlerOption{connect.WithSchema(Method(procedure)), connect.WithRequestInitializer(initialize)}
	}
	say := func(_ context.Context, req *connect.Request[dynamicpb.Message]) (*connect.Response[dynamicpb.Message], error) {
		h.saw(req.Spec().Procedure, req.Msg)
		return connect.NewResponse(req.Msg), nil
	}
	mux.Handle(Place, connect.NewUnaryHandler(Place, say, options(Place)...))
	mux.Handle(Free, connect.NewUnaryHandler(Free, say, options(Free)...))
	mux.Handle(Find, connect.NewUnaryHandler(Find, say, append(options(Find), connect.WithIdempotency(connect.IdempotencyNoSideEffects))...))
	mux.Handle(Watch, connect.NewServerStreamHandler(Watch, func(
		_ context.Context, req *connect.Request[dynamicpb.Message], stream *connect.ServerStream[dynamicpb.Message],
	) error {
		h.saw(Watch, req.Msg)
		return stream.Send(req.Msg)
	}, options(Watch)...))
	mux.Handle(Collect, connect.NewClientStreamHandler(Collect, func(
		_ context.Context, stream *connect.ClientStream[dynamicpb.Message],
	) (*connect.Response[dynamicpb.Message], error) {
		last := dynamicpb.NewMessage(Method(Collect).Output())
		for stream.Receive() {
			h.saw(Collect, stream.Msg())
			last = proto.CloneOf(stream.Msg())
		}
		return connect.NewResponse(last), stream.Err()
	}, options(Collect)...))
	mux.Handle(Talk, connect.NewBidiStreamHandler(Talk, func(
		_ context.Context, stream *connect.BidiStream[dynamicpb.Message, dynamicpb.Message],
	) error {
		for {
			msg, err := stream.Receive()
			if errors.Is(err, io.EOF) {
				return nil
			}
			if err != nil {
				return err
			}
			h.saw(Talk, msg)
			if err := stream.Send(msg); err != nil {
				return err
			}
		}
	}, options(Talk)...))
	h.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if c := h.counts[r.URL.Path]; c != nil {
			c.requests.Add(1)
		}
		mux.ServeHTTP(w, r)
	})
	return h
}
