package fieldrules

import (
	"errors"
	"fmt"
	"strings"

	"buf.build/gen/go/bufbuild/protovalidate/protocolbuffers/go/buf/validate"
	"buf.build/go/protovalidate"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/dynamicpb"
)

// compile makes the rules of all methods ready: they share what they have in common.
func (s *Service) compile() error {
	var all []protoreflect.MessageDescriptor
	seen := make(map[protoreflect.FullName]bool)
	for _, m := range s.methods {
		for _, d := range reach(m.input) {
			if !seen[d.FullName()] {
				seen[d.FullName()], all = true, append(all, d)
			}
		}
	}
	validator, err := protovalidate.New(protovalidate.WithMessageDescriptors(all...), protovalidate.WithDisableLazy(),
		protovalidate.WithExtensionTypeResolver(s.types))
	if err != nil {
		return err
	}
	if err := faults(validator, all); err != nil {
		return err
	}
	costs, err := newCosts(s.types)
	if err != nil {
		return err
	}
	for _, m := range s.methods {
		m.validator = validator
		// What the service does not know either is its to refuse.
		m.json = protojson.UnmarshalOptions{AllowPartial: true, DiscardUnknown: true, Resolver: anys{s.types}}
		m.fields = make(map[string]sizes)
		for _, d := range reach(m.input) {
			for i := range d.Fields().Len() {
				m.fields[string(d.Fields().Get(i).Name())] = sizes{}
			}
			of, err := costs.of(d)
			if err != nil {
				return err
			}
			m.costly = append(m.costly, of...)
		}
		m.cheap = cheap(m.costly)
	}
	return nil
}

// faults returns the first error of rules that cannot be compiled. The validator keeps them until it comes to what they are of, so each is
// asked for by itself.
func faults(v protovalidate.Validator, messages []protoreflect.MessageDescriptor) error {
	ask := func(d protoreflect.MessageDescriptor, of protoreflect.Descriptor) error {
		err := v.Validate(dynamicpb.NewMessage(d), protovalidate.WithFilter(protovalidate.FilterFunc(
			func(_ protoreflect.Message, asked protoreflect.Descriptor) bool { return asked == of })))
		if _, ok := errors.AsType[*protovalidate.CompilationError](err); ok {
			return fmt.Errorf("the rules of %s: %s", of.FullName(), strings.TrimPrefix(err.Error(), "compilation error: "))
		}
		return nil
	}
	for _, d := range messages { // first: a field's error may be that of its message
		if err := ask(d, d); err != nil {
			return err
		}
	}
	for _, d := range messages {
		for i := range d.Fields().Len() {
			if err := ask(d, d.Fields().Get(i)); err != nil {
				return err
			}
		}
	}
	return nil
}

// reach returns the messages that are looked at when one is checked, itself first; none where no rule is among them.
func reach(input protoreflect.MessageDescriptor) []protoreflect.MessageDescriptor {
	var out []protoreflect.MessageDescriptor
	seen, ruled := make(map[protoreflect.FullName]bool), false
	next := []protoreflect.MessageDescriptor{input}
	for len(next) > 0 {
		d := next[0]
		next = next[1:]
		if seen[d.FullName()] {
			continue
		}
		seen[d.FullName()], out = true, append(out, d)
		// What cannot be read is taken for a rule: that it is none is found when it is compiled.
		rules, err := protovalidate.ResolveMessageRules(d)
		ruled = ruled || err != nil || rules != nil
		for i := range d.Oneofs().Len() {
			rules, err := protovalidate.ResolveOneofRules(d.Oneofs().Get(i))
			ruled = ruled || err != nil || rules != nil
		}
		for i := range d.Fields().Len() {
			f := d.Fields().Get(i)
			rules, err := protovalidate.ResolveFieldRules(f)
			if rules.GetIgnore() == validate.Ignore_IGNORE_ALWAYS {
				continue
			}
			ruled = ruled || err != nil || rules != nil
			if f.IsMap() {
				f = f.MapValue()
			}
			if f.Message() != nil {
				next = append(next, f.Message())
			}
		}
	}
	if !ruled {
		return nil
	}
	return out
}

// anys finds the types of what a google.protobuf.Any has in JSON. One that the descriptors do not have is for the service to know: its
// fields are passed over.
type anys struct{ *dynamicpb.Types }

// FindMessageByURL implements protojson's Resolver.
func (a anys) FindMessageByURL(url string) (protoreflect.MessageType, error) {
	if t, err := a.Types.FindMessageByURL(url); err == nil {
		return t, nil
	}
	if t, err := protoregistry.GlobalTypes.FindMessageByURL(url); err == nil && strings.HasPrefix(string(t.Descriptor().FullName()), "google.protobuf.") {
		return t, nil // in JSON they look different from all others
	}
	return unknownType, nil
}

// unknownType is a message without fields.
var unknownType = func() protoreflect.MessageType {
	file, err := protodesc.NewFile(&descriptorpb.FileDescriptorProto{
		Name: new("nearside/unknown.proto"), Package: new("nearside.unknown"), Syntax: new("proto3"),
		MessageType: []*descriptorpb.DescriptorProto{{Name: new("Unknown")}},
	}, nil)
	if err != nil {
		panic(err) // it is always the same
	}
	return dynamicpb.NewMessageType(file.Messages().Get(0))
}()
