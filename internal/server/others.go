package server

import (
	"context"
	"net/http"
	"slices"
	"sync"
	"time"

	"connectrpc.com/connect"
	"connectrpc.com/grpcreflect"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/dynamicpb"
)

// Others are services of a listener besides its own, which come and go while it runs. It may be used concurrently.
type Others interface {
	// Seen returns those that whoever shows these headers may know of.
	Seen(http.Header) []Other
}

// Other is one of Others.
type Other struct {
	Descriptor protoreflect.ServiceDescriptor
	// Ready reports whether it can be called now. It may be called at any time, also when the service is gone.
	Ready func() bool
}

// otherInterval is how often is looked whether a service of others is ready, for who watches it.
const otherInterval = time.Second

type headersKey struct{}

// withHeaders lets a handler of messages find its request's headers.
func withHeaders(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), headersKey{}, r.Header)))
	})
}

// other returns the service of a name, if whoever asks may know of it.
func (c *healthChecker) other(ctx context.Context, name string) (o Other, ok bool) {
	if c.others == nil {
		return o, false
	}
	headers, _ := ctx.Value(headersKey{}).(http.Header)
	for _, o := range c.others.Seen(headers) {
		if string(o.Descriptor.FullName()) == name {
			return o, true
		}
	}
	return o, false
}

// watch calls onChange when a service of others becomes ready or ceases to be.
func watch(o Other, onChange func()) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		tick := time.NewTicker(otherInterval)
		defer tick.Stop()
		for was := o.Ready(); ; {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
				if now := o.Ready(); now != was {
					was = now
					onChange()
				}
			}
		}
	}()
	return func() {
		cancel()
		<-ended
	}
}

// reflection answers reflection of a listener's own services and of others: each caller is told of those that they may know of.
func reflection(
	names []string, others Others, handler func(*grpcreflect.Reflector, ...connect.HandlerOption) (string, http.Handler), options ...connect.HandlerOption,
) (string, http.Handler) {
	if others == nil {
		return handler(grpcreflect.NewStaticReflector(names...), options...)
	}
	path, _ := handler(grpcreflect.NewStaticReflector())
	return path, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		seen := others.Seen(r.Header)
		all := slices.Clip(names)
		for _, o := range seen {
			all = append(all, string(o.Descriptor.FullName()))
		}
		_, h := handler(grpcreflect.NewReflector(grpcreflect.NamerFunc(func() []string { return all }),
			grpcreflect.WithDescriptorResolver(files{seen}), grpcreflect.WithExtensionResolver(extensions{protoregistry.GlobalTypes, seen})), options...)
		h.ServeHTTP(w, r)
	})
}

// healthFile is gRPC's own (https://github.com/grpc/grpc-proto). The library that serves it has it under another name in the program,
// lest it meet that of gRPC's runtime.
const healthFile = `name: "grpc/health/v1/health.proto" package: "grpc.health.v1" syntax: "proto3"
message_type { name: "HealthCheckRequest" field { name: "service" number: 1 type: TYPE_STRING label: LABEL_OPTIONAL } }
message_type { name: "HealthCheckResponse"
  field { name: "status" number: 1 type: TYPE_ENUM type_name: ".grpc.health.v1.HealthCheckResponse.ServingStatus" label: LABEL_OPTIONAL }
  enum_type { name: "ServingStatus" value { name: "UNKNOWN" number: 0 } value { name: "SERVING" number: 1 }
    value { name: "NOT_SERVING" number: 2 } value { name: "SERVICE_UNKNOWN" number: 3 } } }
service { name: "Health"
  method { name: "Check" input_type: ".grpc.health.v1.HealthCheckRequest" output_type: ".grpc.health.v1.HealthCheckResponse" }
  method { name: "Watch" input_type: ".grpc.health.v1.HealthCheckRequest" output_type: ".grpc.health.v1.HealthCheckResponse" server_streaming: true } }`

// grpcFiles has healthFile.
var grpcFiles = sync.OnceValue(func() *protoregistry.Files {
	set := new(protoregistry.Files)
	var file descriptorpb.FileDescriptorProto
	err := prototext.Unmarshal([]byte(healthFile), &file)
	if err == nil {
		var d protoreflect.FileDescriptor
		if d, err = protodesc.NewFile(&file, protoregistry.GlobalFiles); err == nil {
			err = set.RegisterFile(d)
		}
	}
	if err != nil {
		panic(err) // it is always the same
	}
	return set
})

// files finds descriptors among those of the program, and of others then.
type files struct{ others []Other }

var _ protodesc.Resolver = files{}

// FindFileByPath implements protodesc.Resolver.
func (f files) FindFileByPath(path string) (protoreflect.FileDescriptor, error) {
	d, err := protoregistry.GlobalFiles.FindFileByPath(path)
	if err != nil {
		d, err = grpcFiles().FindFileByPath(path)
	}
	if err == nil {
		return d, nil
	}
	for _, o := range f.others {
		if found := search(o, func(file protoreflect.FileDescriptor) bool { return file.Path() == path }); found != nil {
			return found, nil
		}
	}
	return nil, err
}

// FindDescriptorByName implements protodesc.Resolver.
func (f files) FindDescriptorByName(name protoreflect.FullName) (protoreflect.Descriptor, error) {
	d, err := protoregistry.GlobalFiles.FindDescriptorByName(name)
	if err != nil {
		d, err = grpcFiles().FindDescriptorByName(name)
	}
	if err == nil {
		return d, nil
	}
	for _, o := range f.others {
		var found protoreflect.Descriptor
		search(o, func(file protoreflect.FileDescriptor) bool {
			var set protoregistry.Files
			if set.RegisterFile(file) != nil {
				return false
			}
			d, err := set.FindDescriptorByName(name)
			if err == nil {
				found = d
			}
			return err == nil
		})
		if found != nil {
			return found, nil
		}
	}
	return nil, err
}

// search returns the first file for which is reports true, of a service's own and those that it imports.
func search(o Other, is func(protoreflect.FileDescriptor) bool) protoreflect.FileDescriptor {
	queue, seen := []protoreflect.FileDescriptor{o.Descriptor.ParentFile()}, make(map[string]bool)
	for len(queue) > 0 {
		file := queue[0]
		if queue = queue[1:]; seen[file.Path()] || file.IsPlaceholder() {
			continue
		}
		seen[file.Path()] = true
		if is(file) {
			return file
		}
		for i := range file.Imports().Len() {
			queue = append(queue, file.Imports().Get(i).FileDescriptor)
		}
	}
	return nil
}

// extensions finds extensions of messages as files does descriptors.
type extensions struct {
	grpcreflect.ExtensionResolver

	others []Other
}

// FindExtensionByNumber implements grpcreflect.ExtensionResolver.
func (e extensions) FindExtensionByNumber(message protoreflect.FullName, n protoreflect.FieldNumber) (protoreflect.ExtensionType, error) {
	found, err := e.ExtensionResolver.FindExtensionByNumber(message, n)
	if err == nil {
		return found, nil
	}
	e.each(message, func(t protoreflect.ExtensionType) bool {
		if t.TypeDescriptor().Number() != n {
			return true
		}
		found, err = t, nil
		return false
	})
	return found, err
}

// RangeExtensionsByMessage implements grpcreflect.ExtensionResolver.
func (e extensions) RangeExtensionsByMessage(message protoreflect.FullName, f func(protoreflect.ExtensionType) bool) {
	more, seen := true, make(map[protoreflect.FieldNumber]bool)
	e.ExtensionResolver.RangeExtensionsByMessage(message, func(t protoreflect.ExtensionType) bool {
		seen[t.TypeDescriptor().Number()] = true
		more = f(t)
		return more
	})
	if more {
		e.each(message, func(t protoreflect.ExtensionType) bool { return seen[t.TypeDescriptor().Number()] || f(t) })
	}
}

// each calls f for the extensions of a message in the files of others until it returns false.
func (e extensions) each(message protoreflect.FullName, f func(protoreflect.ExtensionType) bool) {
	type holder interface {
		Extensions() protoreflect.ExtensionDescriptors
		Messages() protoreflect.MessageDescriptors
	}
	var walk func(holder) bool
	walk = func(h holder) bool {
		for i := range h.Extensions().Len() {
			if d := h.Extensions().Get(i); d.ContainingMessage().FullName() == message && !f(dynamicpb.NewExtensionType(d)) {
				return false
			}
		}
		for i := range h.Messages().Len() {
			if !walk(h.Messages().Get(i)) {
				return false
			}
		}
		return true
	}
	for _, o := range e.others {
		if search(o, func(file protoreflect.FileDescriptor) bool { return !walk(file) }) != nil {
			return
		}
	}
}
