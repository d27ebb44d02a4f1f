// Package descriptors has what proto/ says in words: the descriptors that are linked into a program carry no comments.
package descriptors

import (
	_ "embed"
	"fmt"
	"strings"
	"sync"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"
)

// descriptors.binpb is a google.protobuf.FileDescriptorSet with source positions, made by make generate.
//
//go:embed descriptors.binpb
var set []byte

// Comments returns the leading comment of each service, method, message, field, enum and enum value of proto/, by full name.
var Comments = sync.OnceValues(func() (map[protoreflect.FullName]string, error) {
	var files descriptorpb.FileDescriptorSet
	if err := proto.Unmarshal(set, &files); err != nil {
		return nil, fmt.Errorf("embedded descriptors: %w", err)
	}
	return CommentsOf(&files), nil
})

// CommentsOf returns the comments of a set as Comments does: of any set, also of one whose positions are wrong.
func CommentsOf(files *descriptorpb.FileDescriptorSet) map[protoreflect.FullName]string {
	out := make(map[protoreflect.FullName]string)
	for _, f := range files.GetFile() {
		for _, l := range f.GetSourceCodeInfo().GetLocation() {
			if text := strings.TrimSpace(l.GetLeadingComments()); text != "" {
				if name := nameAt(f, l.GetPath()); name != "" {
					out[name] = tidy(text)
				}
			}
		}
	}
	return out
}

// tidy joins the lines of each paragraph.
func tidy(text string) string {
	paragraphs := strings.Split(text, "\n\n")
	for i, p := range paragraphs {
		lines := strings.Split(p, "\n")
		for j := range lines {
			lines[j] = strings.TrimSpace(lines[j])
		}
		paragraphs[i] = strings.Join(lines, " ")
	}
	return strings.Join(paragraphs, "\n\n")
}

// The numbers of the fields that lead to what can be named, in descriptor.proto.
const (
	fileMessage, fileEnum, fileService   = 4, 5, 6
	messageField, messageNested, inEnum  = 2, 3, 4
	enumValue, serviceMethod, pathOfPair = 2, 2, 2
)

// at returns an element of a list, or the zero value where there is none.
func at[T any](list []T, index int32) (zero T) {
	if index < 0 || int(index) >= len(list) {
		return zero
	}
	return list[index]
}

// nameAt returns the full name of what stands at a path of a file, or "" for what has none.
func nameAt(f *descriptorpb.FileDescriptorProto, path []int32) protoreflect.FullName {
	if len(path) < pathOfPair || len(path)%pathOfPair != 0 {
		return ""
	}
	name := protoreflect.FullName(f.GetPackage())
	index, rest := path[1], path[2:]
	switch path[0] {
	case fileMessage:
		return inMessage(at(f.GetMessageType(), index), name, rest)
	case fileEnum:
		return enumAt(at(f.GetEnumType(), index), name, rest)
	case fileService:
		s := at(f.GetService(), index)
		name = within(name, s.GetName())
		switch {
		case len(rest) == 0:
			return name
		case len(rest) == pathOfPair && rest[0] == serviceMethod:
			return within(name, at(s.GetMethod(), rest[1]).GetName())
		}
	}
	return ""
}

// within is the full name of what stands within something; "" is no name.
func within(parent protoreflect.FullName, name string) protoreflect.FullName {
	if name == "" {
		return ""
	}
	return parent.Append(protoreflect.Name(name))
}

func inMessage(m *descriptorpb.DescriptorProto, parent protoreflect.FullName, rest []int32) protoreflect.FullName {
	name := within(parent, m.GetName())
	if len(rest) == 0 || name == "" {
		return name
	}
	index := rest[1]
	switch rest[0] {
	case messageField:
		if len(rest) == pathOfPair {
			return within(name, at(m.GetField(), index).GetName())
		}
	case messageNested:
		return inMessage(at(m.GetNestedType(), index), name, rest[2:])
	case inEnum:
		return enumAt(at(m.GetEnumType(), index), name, rest[2:])
	}
	return ""
}

func enumAt(e *descriptorpb.EnumDescriptorProto, parent protoreflect.FullName, rest []int32) protoreflect.FullName {
	switch {
	case len(rest) == 0:
		return within(parent, e.GetName())
	case len(rest) == pathOfPair && rest[0] == enumValue:
		return within(parent, at(e.GetValue(), rest[1]).GetName()) // values are named in their enum's scope
	default:
		return ""
	}
}
