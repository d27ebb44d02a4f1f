// Package servicedesc reads the descriptors of services that the mesh was not built with: a google.protobuf.FileDescriptorSet
// as protoc and buf write it.
package servicedesc

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"
	// The files that sets may leave out.
	_ "google.golang.org/protobuf/types/known/anypb"
	_ "google.golang.org/protobuf/types/known/durationpb"
	_ "google.golang.org/protobuf/types/known/emptypb"
	_ "google.golang.org/protobuf/types/known/fieldmaskpb"
	_ "google.golang.org/protobuf/types/known/structpb"
	_ "google.golang.org/protobuf/types/known/timestamppb"
	_ "google.golang.org/protobuf/types/known/wrapperspb"
)

// MaxSetBytes is how large the set of one service may be, without what it does not need.
const MaxSetBytes = 1 << 20

// MaxMethods is how many methods a service may have.
const MaxMethods = 1000

// wellKnown begins the names of the files that sets may leave out.
const wellKnown = "google/protobuf/"

// Service is a service of a set.
type Service struct {
	Name    string
	Methods []Method // in the order of the file
	Set     []byte   // the service's file and what that imports, before it

	// Descriptor is the service's own, Files what Set has, and Registry the same, to look things up.
	Descriptor protoreflect.ServiceDescriptor
	Files      *descriptorpb.FileDescriptorSet
	Registry   *protoregistry.Files
}

// Method is a method of a service.
type Method struct {
	Name                             string
	ClientStreaming, ServerStreaming bool
	NoSideEffects                    bool
	Input                            protoreflect.MessageDescriptor
}

// Procedure is the path of a method of a service: /package.Service/Method.
func Procedure(service, method string) string { return "/" + service + "/" + method }

// Read returns the service of a name, or with "" the only one, of a set. Everything is checked as protoc would: the set has to
// have all that the service's file imports, but files of google/protobuf.
func Read(set []byte, name string) (*Service, error) {
	var files descriptorpb.FileDescriptorSet
	if err := proto.Unmarshal(set, &files); err != nil {
		return nil, fmt.Errorf("not a FileDescriptorSet: %w", err)
	}
	byPath := make(map[string]*descriptorpb.FileDescriptorProto, len(files.GetFile()))
	for _, f := range files.GetFile() {
		if byPath[f.GetName()] != nil {
			return nil, fmt.Errorf("the file %q is there twice", f.GetName())
		}
		byPath[f.GetName()] = f
	}
	file, name, err := find(&files, name)
	if err != nil {
		return nil, err
	}
	needed, err := needs(byPath, file)
	if err != nil {
		return nil, err
	}
	registry, err := protodesc.NewFiles(needed)
	if err != nil {
		return nil, err
	}
	found, err := registry.FindDescriptorByName(protoreflect.FullName(name))
	if err != nil {
		return nil, err
	}
	d, ok := found.(protoreflect.ServiceDescriptor)
	if !ok {
		return nil, fmt.Errorf("%s is no service", name)
	}
	s := &Service{Name: name, Methods: methodsOf(d), Descriptor: d, Files: needed, Registry: registry}
	if len(s.Methods) == 0 || len(s.Methods) > MaxMethods {
		return nil, fmt.Errorf("%s has %d methods: want 1 to %d", name, len(s.Methods), MaxMethods)
	}
	s.Set, err = encode(needed)
	return s, err
}

// find returns the file of a service.
func find(files *descriptorpb.FileDescriptorSet, name string) (*descriptorpb.FileDescriptorProto, string, error) {
	var file *descriptorpb.FileDescriptorProto
	var found []string
	for _, f := range files.GetFile() {
		if strings.HasPrefix(f.GetName(), wellKnown) {
			continue
		}
		for _, s := range f.GetService() {
			full := s.GetName()
			if f.GetPackage() != "" {
				full = f.GetPackage() + "." + full
			}
			if name == "" || name == full {
				file, found = f, append(found, full)
			}
		}
	}
	switch {
	case len(found) == 1:
		return file, found[0], nil
	case name != "" && len(found) == 0:
		return nil, "", fmt.Errorf("no service %s in the descriptors", name)
	case len(found) == 0:
		return nil, "", errors.New("no service in the descriptors")
	case name != "":
		return nil, "", fmt.Errorf("the service %s is there twice", name)
	default:
		slices.Sort(found)
		return nil, "", fmt.Errorf("say which service is meant: %s", strings.Join(found, ", "))
	}
}

// needs returns a file and all that it imports, each after what it imports itself.
func needs(byPath map[string]*descriptorpb.FileDescriptorProto, file *descriptorpb.FileDescriptorProto) (*descriptorpb.FileDescriptorSet, error) {
	out := &descriptorpb.FileDescriptorSet{}
	const visiting, done = 1, 2
	state := make(map[string]int)
	var visit func(f *descriptorpb.FileDescriptorProto, depth int) error
	visit = func(f *descriptorpb.FileDescriptorProto, depth int) error {
		if state[f.GetName()] == done {
			return nil
		}
		if state[f.GetName()] == visiting || depth > 1000 {
			return fmt.Errorf("%q imports itself", f.GetName())
		}
		state[f.GetName()] = visiting
		for _, path := range f.GetDependency() {
			next := byPath[path]
			if next == nil {
				if next = linked(path); next == nil {
					return fmt.Errorf("%q, which %q imports, is not in the descriptors: have imports included", path, f.GetName())
				}
			}
			if err := visit(next, depth+1); err != nil {
				return err
			}
		}
		state[f.GetName()] = done
		out.File = append(out.File, f)
		return nil
	}
	return out, visit(file, 0)
}

// linked returns a file of google/protobuf, or nil.
func linked(path string) *descriptorpb.FileDescriptorProto {
	if !strings.HasPrefix(path, wellKnown) {
		return nil
	}
	f, err := protoregistry.GlobalFiles.FindFileByPath(path)
	if err != nil {
		return nil
	}
	return protodesc.ToFileDescriptorProto(f)
}

func methodsOf(d protoreflect.ServiceDescriptor) []Method {
	methods := make([]Method, d.Methods().Len())
	for i := range methods {
		m := d.Methods().Get(i)
		options, _ := m.Options().(*descriptorpb.MethodOptions)
		methods[i] = Method{
			Name: string(m.Name()), ClientStreaming: m.IsStreamingClient(), ServerStreaming: m.IsStreamingServer(),
			NoSideEffects: options.GetIdempotencyLevel() == descriptorpb.MethodOptions_NO_SIDE_EFFECTS, Input: m.Input(),
		}
	}
	return methods
}

// encode encodes a set, without its comments where it is too large with them.
func encode(set *descriptorpb.FileDescriptorSet) ([]byte, error) {
	if proto.Size(set) > MaxSetBytes {
		for _, f := range set.GetFile() {
			f.SourceCodeInfo = nil
		}
	}
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(set)
	if err == nil && len(b) > MaxSetBytes {
		err = fmt.Errorf("the service's file and its imports are %d bytes: at most %d may be", len(b), MaxSetBytes)
	}
	return b, err
}
