// Package echo is a service that the mesh knows nothing of: acme.echo.v1.EchoService, made with Connect's library alone. Its
// messages are those of google/protobuf/wrappers.proto, its descriptors are made here.
package echo

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// The service's names.
const (
	Name    = "acme.echo.v1.EchoService"
	Package = "acme.echo.v1"

	Echo  = "/" + Name + "/Echo"  // answers what it was sent
	Get   = "/" + Name + "/Get"   // the same, without side effects
	Count = "/" + Name + "/Count" // counts up to what it was sent, a message each
	Sum   = "/" + Name + "/Sum"   // adds up what it is sent
	Chat  = "/" + Name + "/Chat"  // answers each message at once
)

// SubjectHeader is what the mesh says of a caller; Echo and Get answer with it in the header Seen-Subject, and with what they
// saw of a credential in Seen-Authorization.
const SubjectHeader = "Nearside-Subject"

// Descriptors returns the service's FileDescriptorSet, as buf build or protoc would write it.
func Descriptors() []byte { return DescriptorsOf(Package) }

// DescriptorsOf is Descriptors with another package.
func DescriptorsOf(pkg string) []byte {
	method := func(name, in, out string, client, server, safe bool) *descriptorpb.MethodDescriptorProto {
		m := &descriptorpb.MethodDescriptorProto{
			Name: new(name), InputType: new(".google.protobuf." + in), OutputType: new(".google.protobuf." + out),
		}
		if client {
			m.ClientStreaming = new(true)
		}
		if server {
			m.ServerStreaming = new(true)
		}
		if safe {
			m.Options = &descriptorpb.MethodOptions{IdempotencyLevel: descriptorpb.MethodOptions_NO_SIDE_EFFECTS.Enum()}
		}
		return m
	}
	file := &descriptorpb.FileDescriptorProto{
		Name: new(strings.ReplaceAll(pkg, ".", "/") + "/echo.proto"), Package: new(pkg), Syntax: new("proto3"),
		Dependency: []string{"google/protobuf/wrappers.proto"},
		Service: []*descriptorpb.ServiceDescriptorProto{{
			Name: new("EchoService"),
			Method: []*descriptorpb.MethodDescriptorProto{
				method("Echo", "StringValue", "StringValue", false, false, false),
				method("Get", "StringValue", "StringValue", false, false, true),
				method("Count", "Int64Value", "Int64Value", false, true, false),
				method("Sum", "Int64Value", "Int64Value", true, false, false),
				method("Chat", "StringValue", "StringValue", true, true, false),
			},
		}},
	}
	set, err := proto.Marshal(&descriptorpb.FileDescriptorSet{File: []*descriptorpb.FileDescriptorProto{
		protodesc.ToFileDescriptorProto(wrapperspb.File_google_protobuf_wrappers_proto), file,
	}})
	if err != nil {
		panic(err) // it is always the same
	}
	return set
}

// Handler answers the service. A text "fail" is answered with an error that has the code not_found.
func Handler(options ...connect.HandlerOption) http.Handler {
	mux := http.NewServeMux()
	say := func(_ context.Context, req *connect.Request[wrapperspb.StringValue]) (*connect.Response[wrapperspb.StringValue], error) {
		if req.Msg.GetValue() == "fail" {
			err := connect.NewError(connect.CodeNotFound, errors.New("no such thing"))
			if d, e := connect.NewErrorDetail(req.Msg); e == nil {
				err.AddDetail(d)
			}
			return nil, err
		}
		res := connect.NewResponse(req.Msg)
		res.Header().Set("Seen-Subject", req.Header().Get(SubjectHeader))
		res.Header().Set("Seen-Authorization", req.Header().Get("Authorization"))
		res.Header().Set("Seen-Trace", req.Header().Get("Traceparent"))
		res.Header().Set("Seen-Trace-State", req.Header().Get("Tracestate"))
		res.Header().Set("Seen-Request", strings.Join(req.Header().Values("X-Request-Id"), ","))
		res.Header().Set("X-Request-Id", "the service's own")
		res.Trailer().Set("Echo-Trailer", "yes")
		return res, nil
	}
	mux.Handle(Echo, connect.NewUnaryHandler(Echo, say, options...))
	mux.Handle(Get, connect.NewUnaryHandler(Get, say, append(options, connect.WithIdempotency(connect.IdempotencyNoSideEffects))...))
	mux.Handle(Count, connect.NewServerStreamHandler(Count, func(
		ctx context.Context, req *connect.Request[wrapperspb.Int64Value], stream *connect.ServerStream[wrapperspb.Int64Value],
	) error {
		for n := range req.Msg.GetValue() {
			if err := ctx.Err(); err != nil {
				return err
			}
			if err := stream.Send(wrapperspb.Int64(n + 1)); err != nil {
				return err
			}
		}
		stream.ResponseTrailer().Set("Echo-Trailer", "yes")
		return nil
	}, options...))
	mux.Handle(Sum, connect.NewClientStreamHandler(Sum, func(
		_ context.Context, stream *connect.ClientStream[wrapperspb.Int64Value],
	) (*connect.Response[wrapperspb.Int64Value], error) {
		sum := int64(0)
		for stream.Receive() {
			sum += stream.Msg().GetValue()
		}
		return connect.NewResponse(wrapperspb.Int64(sum)), stream.Err()
	}, options...))
	mux.Handle(Chat, connect.NewBidiStreamHandler(Chat, func(
		_ context.Context, stream *connect.BidiStream[wrapperspb.StringValue, wrapperspb.StringValue],
	) error {
		for {
			msg, err := stream.Receive()
			if errors.Is(err, io.EOF) {
				return nil
			}
			if err != nil {
				return err
			}
			if err := stream.Send(msg); err != nil {
				return err
			}
		}
	}, options...))
	return mux
}

// Server returns a server of a handler on HTTP/1.1 and HTTP/2 without TLS.
func Server(handler http.Handler) *http.Server {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(true)
	return &http.Server{Handler: handler, Protocols: protocols, ReadHeaderTimeout: 10 * time.Second}
}
