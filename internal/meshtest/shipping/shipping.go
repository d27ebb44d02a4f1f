// Package shipping is a service that the mesh knows nothing of: acme.shipping.v1.ShippingService, made with Connect's library alone. It
// says what shipping costs. Its descriptors are made here, with rules of buf.validate that it does not look at: its gateways do.
package shipping

import (
	"context"
	"net/http"
	"time"

	_ "buf.build/gen/go/bufbuild/protovalidate/protocolbuffers/go/buf/validate" // the file imports it
	"connectrpc.com/connect"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/dynamicpb"

	"github.com/nearside-dev/nearside/internal/meshtest/fileset"
)

// The service's names.
const (
	Name  = "acme.shipping.v1.ShippingService"
	Quote = "/" + Name + "/Quote"
)

// What shipping costs, and from which total on it costs nothing.
const (
	Cents     = 490
	FreeAbove = 5000
)

// file is what protoc makes of this:
//
//	message QuoteRequest {
//	  // The order's total.
//	  int64 total_cents = 1 [(buf.validate.field).int64 = {gte: 0, lte: 100000000}];
//	  // Where it goes to, as ISO 3166 has it; empty is the country of the shop.
//	  string country = 2 [
//	    (buf.validate.field).ignore = IGNORE_IF_ZERO_VALUE,
//	    (buf.validate.field).string.pattern = "^[A-Z]{2}$"
//	  ];
//	}
//	message QuoteResponse {
//	  int64 shipping_cents = 1;
//	}
//	service ShippingService {
//	  rpc Quote(QuoteRequest) returns (QuoteResponse) {
//	    option idempotency_level = NO_SIDE_EFFECTS;
//	  }
//	}
const file = `
name: "acme/shipping/v1/shipping.proto" package: "acme.shipping.v1" syntax: "proto3" dependency: "buf/validate/validate.proto"
message_type { name: "QuoteRequest"
  field { name: "total_cents" json_name: "totalCents" number: 1 type: TYPE_INT64 label: LABEL_OPTIONAL
    options { [buf.validate.field] { int64 { gte: 0 lte: 100000000 } } } }
  field { name: "country" json_name: "country" number: 2 type: TYPE_STRING label: LABEL_OPTIONAL
    options { [buf.validate.field] { ignore: IGNORE_IF_ZERO_VALUE string { pattern: "^[A-Z]{2}$" } } } } }
message_type { name: "QuoteResponse"
  field { name: "shipping_cents" json_name: "shippingCents" number: 1 type: TYPE_INT64 label: LABEL_OPTIONAL } }
service { name: "ShippingService"
  method { name: "Quote" input_type: ".acme.shipping.v1.QuoteRequest" output_type: ".acme.shipping.v1.QuoteResponse"
    options { idempotency_level: NO_SIDE_EFFECTS } } }`

// described has what file says.
var described = func() *descriptorpb.FileDescriptorProto {
	f := new(descriptorpb.FileDescriptorProto)
	if err := prototext.Unmarshal([]byte(file), f); err != nil {
		panic(err) // it is always the same
	}
	return f
}()

// quote is the method.
var quote = func() protoreflect.MethodDescriptor {
	f, err := protodesc.NewFile(described, protoregistry.GlobalFiles)
	if err != nil {
		panic(err) // it is always the same
	}
	return f.Services().Get(0).Methods().Get(0)
}()

// Descriptors returns the service's FileDescriptorSet, as buf build or protoc would write it.
func Descriptors() []byte { return fileset.Of(quote.ParentFile()) }

// Handler answers the service.
func Handler() http.Handler {
	total, shipping := quote.Input().Fields().ByName("total_cents"), quote.Output().Fields().ByName("shipping_cents")
	mux := http.NewServeMux()
	mux.Handle(Quote, connect.NewUnaryHandler(Quote,
		func(_ context.Context, req *connect.Request[dynamicpb.Message]) (*connect.Response[dynamicpb.Message], error) {
			answer := dynamicpb.NewMessage(quote.Output())
			if req.Msg.Get(total).Int() < FreeAbove {
				answer.Set(shipping, protoreflect.ValueOfInt64(Cents))
			}
			return connect.NewResponse(answer), nil
		}, connect.WithIdempotency(connect.IdempotencyNoSideEffects), connect.WithSchema(quote),
		connect.WithRequestInitializer(func(_ connect.Spec, message any) error {
			if m, ok := message.(*dynamicpb.Message); ok {
				*m = *dynamicpb.NewMessage(quote.Input())
			}
			return nil
		})))
	return mux
}

// Server returns a server of the service, for HTTP/1.1 and HTTP/2 without TLS.
func Server() *http.Server {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(true)
	return &http.Server{Handler: Handler(), Protocols: protocols, ReadHeaderTimeout: 10 * time.Second}
}
