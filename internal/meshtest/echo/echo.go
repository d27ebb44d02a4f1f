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
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/known/durationpb"
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

// Texts, and the number Refused, that are answered with errors.
const (
	Fail   = "fail"   // not_found with the text as detail
	Refuse = "refuse" // resource_exhausted with an ErrorInfo, a BadRequest and a RetryInfo, and Echo-Refused among its headers or trailers
	Wait   = "wait"   // nothing until its caller gives up or has no time any more

	Refused = -1 // as Refuse; Count counts to 2 before, WaitFor as Wait
	WaitFor = -2
)

// RefusedError is the error that Refuse and Refused are answered with.
func RefusedError() *connect.Error {
	err := connect.NewError(connect.CodeResourceExhausted, errors.New("no more \u2603 here"))
	for _, detail := range []proto.Message{
		&errdetails.ErrorInfo{Reason: "MELTED", Domain: "acme.example", Metadata: map[string]string{"limit": "3"}},
		&errdetails.BadRequest{FieldViolations: []*errdetails.BadRequest_FieldViolation{{Field: "value", Description: "is too warm"}}},
		&errdetails.RetryInfo{RetryDelay: durationpb.New(90 * time.Second)},
	} {
		if d, e := connect.NewErrorDetail(detail); e == nil { // always
			err.AddDetail(d)
		}
	}
	err.Meta().Set("Echo-Refused", "yes")
	return err
}

func refusal(ctx context.Context, text string) error {
	switch text {
	case Fail:
		err := connect.NewError(connect.CodeNotFound, errors.New("no such thing"))
		if d, e := connect.NewErrorDetail(wrapperspb.String(text)); e == nil { // always
			err.AddDetail(d)
		}
		return err
	case Refuse:
		return RefusedError()
	case Wait:
		<-ctx.Done()
		return ctx.Err()
	default:
		return nil
	}
}

func refusalOf(ctx context.Context, n int64) error {
	return refusal(ctx, map[int64]string{Refused: Refuse, WaitFor: Wait}[n])
}

// Handler answers the service.
func Handler(options ...connect.HandlerOption) http.Handler { return HandlerOf(Package, options...) }

// HandlerOf is Handler with another package, as DescriptorsOf has it.
func HandlerOf(pkg string, options ...connect.HandlerOption) http.Handler {
	mux := http.NewServeMux()
	path := func(procedure string) string { return "/" + pkg + strings.TrimPrefix(procedure, "/"+Package) }
	say := func(ctx context.Context, req *connect.Request[wrapperspb.StringValue]) (*connect.Response[wrapperspb.StringValue], error) {
		if err := refusal(ctx, req.Msg.GetValue()); err != nil {
			return nil, err
		}
		res := connect.NewResponse(req.Msg)
		res.Header().Set("Seen-Subject", req.Header().Get(SubjectHeader))
		res.Header().Set("Seen-Authorization", req.Header().Get("Authorization"))
		res.Header().Set("Seen-Trace", req.Header().Get("Traceparent"))
		res.Header().Set("Seen-Trace-State", req.Header().Get("Tracestate"))
		res.Header().Set("Seen-Request", strings.Join(req.Header().Values("X-Request-Id"), ","))
		res.Header().Set("X-Request-Id", "the service's own")
		res.Header()["Seen-Lists"] = req.Header()["Lists"]
		res.Header().Set("Seen-Bin", req.Header().Get("Some-Bin"))
		res.Trailer().Set("Echo-Trailer", "yes")
		return res, nil
	}
	mux.Handle(path(Echo), connect.NewUnaryHandler(path(Echo), say, options...))
	mux.Handle(path(Get), connect.NewUnaryHandler(path(Get), say, append(options, connect.WithIdempotency(connect.IdempotencyNoSideEffects))...))
	mux.Handle(path(Count), connect.NewServerStreamHandler(path(Count), func(
		ctx context.Context, req *connect.Request[wrapperspb.Int64Value], stream *connect.ServerStream[wrapperspb.Int64Value],
	) error {
		last := req.Msg.GetValue()
		stream.ResponseHeader()["Seen-Lists"] = req.Header()["Lists"]
		stream.ResponseTrailer().Set("Echo-Trailer", "yes")
		many := last
		if last < 0 {
			many = 2
		}
		for n := range many {
			if err := ctx.Err(); err != nil {
				return err
			}
			if err := stream.Send(wrapperspb.Int64(n + 1)); err != nil {
				return err
			}
		}
		return refusalOf(ctx, last)
	}, options...))
	mux.Handle(path(Sum), connect.NewClientStreamHandler(path(Sum), func(
		ctx context.Context, stream *connect.ClientStream[wrapperspb.Int64Value],
	) (*connect.Response[wrapperspb.Int64Value], error) {
		sum := int64(0)
		for stream.Receive() {
			if err := refusalOf(ctx, stream.Msg().GetValue()); err != nil {
				return nil, err
			}
			sum += stream.Msg().GetValue()
		}
		res := connect.NewResponse(wrapperspb.Int64(sum))
		res.Header()["Seen-Lists"] = stream.RequestHeader()["Lists"]
		res.Trailer().Set("Echo-Trailer", "yes")
		return res, stream.Err()
	}, options...))
	mux.Handle(path(Chat), connect.NewBidiStreamHandler(path(Chat), func(
		ctx context.Context, stream *connect.BidiStream[wrapperspb.StringValue, wrapperspb.StringValue],
	) error {
		stream.ResponseHeader()["Seen-Lists"] = stream.RequestHeader()["Lists"]
		stream.ResponseTrailer().Set("Echo-Trailer", "yes")
		for {
			msg, err := stream.Receive()
			if errors.Is(err, io.EOF) {
				return nil
			}
			if err != nil {
				return err
			}
			if err := refusal(ctx, msg.GetValue()); err != nil {
				return err
			}
			if err := stream.Send(msg); err != nil {
				return err
			}
		}
	}, options...))
	return mux
}

// OnlyGRPC refuses what servers of gRPC refuse that know nothing else.
func OnlyGRPC(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		kind := r.Header.Get("Content-Type")
		if r.ProtoMajor != 2 || r.Method != http.MethodPost || kind != "application/grpc" && kind != "application/grpc+proto" {
			w.WriteHeader(http.StatusUnsupportedMediaType)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// Server returns a server of a handler on HTTP/1.1 and HTTP/2 without TLS.
func Server(handler http.Handler) *http.Server {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(true)
	return &http.Server{Handler: handler, Protocols: protocols, ReadHeaderTimeout: 10 * time.Second}
}
