// Package shipping is a service that the mesh knows nothing of: acme.shipping.v1.ShippingService, made with Connect's library alone. It
// says what shipping costs. Its messages are those of google/protobuf/wrappers.proto, its descriptors are made here.
package shipping

import (
	"context"
	"net/http"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/known/wrapperspb"
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

// Descriptors returns the service's FileDescriptorSet, as buf build or protoc would write it.
func Descriptors() []byte {
	set, err := proto.Marshal(&descriptorpb.FileDescriptorSet{File: []*descriptorpb.FileDescriptorProto{
		protodesc.ToFileDescriptorProto(wrapperspb.File_google_protobuf_wrappers_proto),
		{
			Name: new("acme/shipping/v1/shipping.proto"), Package: new("acme.shipping.v1"), Syntax: new("proto3"),
			Dependency: []string{"google/protobuf/wrappers.proto"},
			Service: []*descriptorpb.ServiceDescriptorProto{{
				Name: new("ShippingService"),
				Method: []*descriptorpb.MethodDescriptorProto{{
					Name: new("Quote"), InputType: new(".google.protobuf.Int64Value"), OutputType: new(".google.protobuf.Int64Value"),
					Options: &descriptorpb.MethodOptions{IdempotencyLevel: descriptorpb.MethodOptions_NO_SIDE_EFFECTS.Enum()},
				}},
			}},
		},
	}})
	if err != nil {
		panic(err) // it is always the same
	}
	return set
}

// Handler answers the service.
func Handler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle(Quote, connect.NewUnaryHandler(Quote,
		func(_ context.Context, req *connect.Request[wrapperspb.Int64Value]) (*connect.Response[wrapperspb.Int64Value], error) {
			if req.Msg.GetValue() >= FreeAbove {
				return connect.NewResponse(wrapperspb.Int64(0)), nil
			}
			return connect.NewResponse(wrapperspb.Int64(Cents)), nil
		}, connect.WithIdempotency(connect.IdempotencyNoSideEffects)))
	return mux
}

// Server returns a server of the service, for HTTP/1.1 and HTTP/2 without TLS.
func Server() *http.Server {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(true)
	return &http.Server{Handler: Handler(), Protocols: protocols, ReadHeaderTimeout: 10 * time.Second}
}
