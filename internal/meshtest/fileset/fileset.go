// Package fileset writes descriptors for services that tests register.
package fileset

import (
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"
)

// Of returns the encoded FileDescriptorSet of a file and of all that it imports, as buf build or protoc --include_imports would write
// it: each file once, behind those that it imports.
func Of(file protoreflect.FileDescriptor) []byte {
	set, seen := &descriptorpb.FileDescriptorSet{}, make(map[string]bool)
	var add func(protoreflect.FileDescriptor)
	add = func(f protoreflect.FileDescriptor) {
		if seen[f.Path()] {
			return
		}
		seen[f.Path()] = true
		for i := range f.Imports().Len() {
			add(f.Imports().Get(i).FileDescriptor)
		}
		set.File = append(set.File, protodesc.ToFileDescriptorProto(f))
	}
	add(file)
	b, err := proto.Marshal(set)
	if err != nil {
		panic(err) // they were valid already
	}
	return b
}
