package graphql

import (
	"cmp"
	"fmt"
	"slices"

	"buf.build/gen/go/bufbuild/protovalidate/protocolbuffers/go/buf/validate"
	"github.com/vektah/gqlparser/v2"
	"github.com/vektah/gqlparser/v2/ast"
	"google.golang.org/genproto/googleapis/api/annotations"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"

	graphqlv1 "github.com/nearside-dev/nearside/gen/nearside/graphql/v1"
	"github.com/nearside-dev/nearside/internal/servicedesc"
)

// The names of the roots.
const (
	rootQuery        = "Query"
	rootMutation     = "Mutation"
	rootSubscription = "Subscription"
)

// maxTypes bounds how many types a schema has: services beyond are left out.
const maxTypes = 10_000

// builder makes a schema.
type builder struct {
	comments map[protoreflect.FullName]string
	taken    map[string]bool // names of types
	outputs  map[protoreflect.FullName][]*made[*object]
	inputs   map[protoreflect.FullName][]*made[*input]
	enums    map[protoreflect.FullName][]*made[*enumType]
	roots    map[string]*object
	methods  []*method
	schema   *Schema
	types    []sdlType // in the order in which they are written
}

// made is a type that was made of a descriptor.
type made[T any] struct {
	descriptor protoreflect.Descriptor
	name       string
	value      T
}

type input struct {
	name, description string
	args              []*argument
}

type enumType struct {
	enum

	name, description string
	order             []string
	described         []string
}

// Build makes the schema of services. Those before come first where two want a name; what cannot be in a schema is left out and
// told to skipped.
func Build(services []Service, skipped func(service string, err error)) (*Schema, error) {
	b := &builder{
		taken: map[string]bool{}, outputs: map[protoreflect.FullName][]*made[*object]{},
		inputs: map[protoreflect.FullName][]*made[*input]{}, enums: map[protoreflect.FullName][]*made[*enumType]{},
		roots: map[string]*object{}, schema: &Schema{objects: map[string]*object{}, enums: map[string]*enum{}},
	}
	for _, name := range []string{rootQuery, rootMutation, rootSubscription} {
		b.taken[name] = true
		b.roots[name] = &object{name: name, fields: map[string]*field{}}
		b.schema.objects[name] = b.roots[name]
	}
	for name := range scalars {
		b.taken[name] = true
	}
	for _, name := range []string{"Int", "Float", "String", "Boolean", "ID"} {
		b.taken[name] = true
	}
	for _, s := range services {
		if len(b.taken) > maxTypes {
			skipped(string(s.Descriptor.FullName()), fmt.Errorf("the schema has %d types already", len(b.taken)))
			continue
		}
		b.comments = s.Comments
		b.addService(s)
	}
	b.addLinks()
	b.schema.sdl = b.write()
	parsed, err := gqlparser.LoadSchema(&ast.Source{Name: "schema", Input: b.schema.sdl})
	if err != nil {
		return nil, fmt.Errorf("GraphQL schema: %w", err)
	}
	b.schema.ast = parsed
	return b.schema, nil
}

func (b *builder) addService(s Service) {
	methods := s.Descriptor.Methods()
	for i := range methods.Len() {
		d := methods.Get(i)
		if d.IsStreamingClient() {
			continue // there is nothing in GraphQL that it could be
		}
		o, _ := d.Options().(*descriptorpb.MethodOptions)
		m := &method{
			procedure: servicedesc.Procedure(string(s.Descriptor.FullName()), string(d.Name())), input: d.Input(), output: d.Output(),
			safe: o.GetIdempotencyLevel() == descriptorpb.MethodOptions_NO_SIDE_EFFECTS, stream: d.IsStreamingServer(),
		}
		m.rule, _ = proto.GetExtension(o, graphqlv1.E_Lookup).(*graphqlv1.Lookup)
		root := b.roots[rootMutation]
		switch {
		case m.stream:
			root = b.roots[rootSubscription]
		case m.safe:
			root = b.roots[rootQuery]
		}
		if !m.stream {
			m.result = resultOf(d)
		}
		m.page = pageOf(m)
		b.methods = append(b.methods, m)
		description := b.comments[d.FullName()]
		names := rootNames(d, m.safe && !m.stream)
		b.addRoot(root, names, m, description, o.GetDeprecated())
		if m.result != nil && m.result.IsList() && m.output.Fields().Len() > 1 { // there is something beside the list
			whole := *m
			whole.result = nil
			for i := range names {
				names[i] += "Page"
			}
			b.addRoot(root, names, &whole, description, o.GetDeprecated())
		}
	}
}

func (b *builder) addRoot(root *object, names []string, m *method, description string, deprecated bool) {
	for _, name := range names {
		if root.fields[name] != nil || !isName(name) {
			continue
		}
		f := &field{name: name, call: m, description: description, deprecated: deprecated, args: b.arguments(m.input, "")}
		b.typeResult(f)
		root.add(f)
		return
	}
}

func (o *object) add(f *field) {
	o.fields[f.name] = f
	o.order = append(o.order, f)
}

// typeResult gives a field the type of what its call answers. It may always be null: a call may fail.
func (b *builder) typeResult(f *field) {
	if r := f.call.result; r != nil {
		f.typeName, f.list, f.inner = b.outputName(r), r.IsList(), r.IsList()
		return
	}
	f.typeName = b.messageName(f.call.output)
}

// resultOf returns the field of an answer that a call is to its caller: the one that its HTTP rule names, the only one if it is named
// as the method is, or the list of a page. It is nil where the whole answer is.
func resultOf(d protoreflect.MethodDescriptor) protoreflect.FieldDescriptor {
	fields := d.Output().Fields()
	if isWellKnown(d.Output()) {
		return nil
	}
	if rule, _ := proto.GetExtension(d.Options(), annotations.E_Http).(*annotations.HttpRule); rule.GetResponseBody() != "" {
		if f := fields.ByName(protoreflect.Name(rule.GetResponseBody())); f != nil && !f.IsMap() {
			return f
		}
	}
	_, noun := nounOf(d)
	f := fields.ByJSONName(lowerFirst(noun))
	if f == nil || f.IsMap() || f.ContainingOneof() != nil {
		return nil
	}
	if fields.Len() == 1 || f.IsList() && fields.Len() == 2 && fields.ByName("next_page_token") != nil {
		return f
	}
	return nil
}

// pageOf returns the field of a request that says how many there are in a list.
func pageOf(m *method) protoreflect.FieldDescriptor {
	f := m.input.Fields().ByName("page_size")
	if f == nil || f.IsList() || f.Kind() != protoreflect.Uint32Kind && f.Kind() != protoreflect.Int32Kind {
		return nil
	}
	return f
}

// arguments are a request's fields, but for one.
func (b *builder) arguments(m protoreflect.MessageDescriptor, without protoreflect.Name) []*argument {
	if isWellKnown(m) {
		if wellKnown[m.FullName()] == emptyMessage {
			return nil
		}
		// A request that JSON has another form for is one argument.
		return []*argument{{name: "value", typeText: wellKnown[m.FullName()]}}
	}
	var out []*argument
	fields := m.Fields()
	for i := range fields.Len() {
		f := fields.Get(i)
		if f.Name() == without {
			continue
		}
		if name := fieldName(f); isName(name) {
			out = append(out, &argument{name: name, typeText: b.inputText(f), description: b.comments[f.FullName()], proto: f})
		}
	}
	return out
}

// inputText is a field's type where it is given.
func (b *builder) inputText(f protoreflect.FieldDescriptor) string {
	var text string
	switch {
	case f.IsMap():
		text = "[" + b.inputMessage(f.Message()) + "!]"
	default:
		text = scalarName(f)
		if text == "" && f.Enum() != nil {
			text = b.enumName(f.Enum())
		} else if text == "" {
			text = b.inputMessage(f.Message())
		}
		if f.IsList() {
			text = "[" + text + "!]"
		}
	}
	if isRequired(f) {
		text += "!"
	}
	return text
}

func rulesOf(f protoreflect.FieldDescriptor) *validate.FieldRules {
	rules, _ := proto.GetExtension(f.Options(), validate.E_Field).(*validate.FieldRules)
	return rules
}

// isRequired reports whether a request without a field is refused, by its rules.
func isRequired(f protoreflect.FieldDescriptor) bool {
	r := rulesOf(f)
	if r == nil || r.GetIgnore() != validate.Ignore_IGNORE_UNSPECIFIED {
		return false
	}
	if r.GetRequired() {
		return f.ContainingOneof() == nil
	}
	if f.HasPresence() {
		return false
	}
	switch {
	case f.IsList():
		return r.GetRepeated().GetMinItems() > 0
	case f.IsMap():
		return r.GetMap().GetMinPairs() > 0
	case f.Kind() == protoreflect.StringKind:
		s := r.GetString()
		return s.GetMinLen() > 0 || s.GetMinBytes() > 0 || s.GetEmail() || s.GetUuid()
	case f.Kind() == protoreflect.BytesKind:
		return r.GetBytes().GetMinLen() > 0
	default:
		return false
	}
}

// outputName is the name of the type of a field's value, or of its elements.
func (b *builder) outputName(f protoreflect.FieldDescriptor) string {
	if name := scalarName(f); name != "" && !f.IsMap() {
		return name
	}
	if f.Enum() != nil && !f.IsMap() {
		return b.enumName(f.Enum())
	}
	return b.messageName(f.Message())
}

// same returns the type that was made of a descriptor, or of one that says the same.
func same[T any](list []*made[T], d protoreflect.Descriptor) *made[T] {
	for _, m := range list {
		if m.descriptor == d || proto.Equal(textOf(m.descriptor), textOf(d)) {
			return m
		}
	}
	return nil
}

func textOf(d protoreflect.Descriptor) proto.Message {
	switch d := d.(type) {
	case protoreflect.MessageDescriptor:
		return protodesc.ToDescriptorProto(d)
	case protoreflect.EnumDescriptor:
		return protodesc.ToEnumDescriptorProto(d)
	default:
		return nil
	}
}

// free returns a name for a type that no other has.
func (b *builder) free(d protoreflect.Descriptor, suffix string) string {
	name := relativeName(d)
	for _, try := range []string{name, camel(string(d.ParentFile().Package())) + name} {
		if isName(try+suffix) && !b.taken[try+suffix] {
			b.taken[try+suffix] = true
			return try + suffix
		}
	}
	for i := 2; ; i++ {
		if try := fmt.Sprintf("%s%d%s", name, i, suffix); !b.taken[try] {
			b.taken[try] = true
			return try
		}
	}
}

// messageName is the name of the type of a message, which is made if it was not.
func (b *builder) messageName(d protoreflect.MessageDescriptor) string {
	if name := wellKnown[d.FullName()]; name != "" {
		return name
	}
	if d.Fields().Len() == 0 {
		return emptyMessage
	}
	if m := same(b.outputs[d.FullName()], d); m != nil {
		return m.name
	}
	o := &object{fields: map[string]*field{}}
	m := &made[*object]{descriptor: d, value: o}
	if d.IsMapEntry() {
		parent, _ := d.Parent().(protoreflect.MessageDescriptor)
		m.name = b.free(parent, upperFirst(lowerFirst(string(d.Name()))))
	} else {
		m.name = b.free(d, "")
	}
	o.name = m.name
	b.outputs[d.FullName()] = append(b.outputs[d.FullName()], m) // a message may have itself
	b.schema.objects[o.name] = o
	for i := range d.Fields().Len() {
		f := d.Fields().Get(i)
		name := fieldName(f)
		if !isName(name) || o.fields[name] != nil {
			continue
		}
		options, _ := f.Options().(*descriptorpb.FieldOptions)
		out := &field{
			name: name, typeName: b.outputName(f), proto: f, description: b.comments[f.FullName()], deprecated: options.GetDeprecated(),
			list: f.IsList() || f.IsMap(), entry: f.IsMap(), inner: f.IsList() || f.IsMap(),
		}
		out.required = out.list || !f.HasPresence() || d.IsMapEntry() && f.Message() == nil
		out.inner = out.inner && wellKnown[messageOf(f)] != jsonValue
		o.add(out)
	}
	b.types = append(b.types, sdlType{object: o, description: b.comments[d.FullName()]})
	return m.name
}

func messageOf(f protoreflect.FieldDescriptor) protoreflect.FullName {
	if f.Message() == nil {
		return ""
	}
	return f.Message().FullName()
}

// inputMessage is the name of the input type of a message.
func (b *builder) inputMessage(d protoreflect.MessageDescriptor) string {
	if d.Fields().Len() == 0 {
		return emptyMessage
	}
	if m := same(b.inputs[d.FullName()], d); m != nil {
		return m.name
	}
	in := &input{description: b.comments[d.FullName()]}
	m := &made[*input]{descriptor: d, name: b.free(d, "Input"), value: in}
	in.name = m.name
	b.inputs[d.FullName()] = append(b.inputs[d.FullName()], m)
	in.args = b.arguments(d, "")
	b.types = append(b.types, sdlType{input: in})
	return m.name
}

func (b *builder) enumName(d protoreflect.EnumDescriptor) string {
	if d.FullName() == "google.protobuf.NullValue" {
		return jsonValue
	}
	if m := same(b.enums[d.FullName()], d); m != nil {
		return m.name
	}
	e := &enumType{description: b.comments[d.FullName()]}
	e.name = b.free(d, "")
	e.names, e.numbers = map[protoreflect.EnumNumber]string{}, map[string]protoreflect.EnumNumber{}
	for i, name := range enumNames(d) {
		v := d.Values().Get(i)
		if !isName(name) || reservedValues[name] {
			continue
		}
		if _, ok := e.names[v.Number()]; !ok { // of two names of a number the first is written
			e.names[v.Number()] = name
		}
		e.numbers[name] = v.Number()
		e.order, e.described = append(e.order, name), append(e.described, b.comments[v.FullName()])
	}
	b.enums[d.FullName()] = append(b.enums[d.FullName()], &made[*enumType]{descriptor: d, name: e.name, value: e})
	b.schema.enums[e.name] = &e.enum
	b.types = append(b.types, sdlType{enum: e})
	return e.name
}

// sorted returns the objects that messages were made of, by name.
func (b *builder) sorted() []*made[*object] {
	var all []*made[*object]
	for _, list := range b.outputs {
		all = append(all, list...)
	}
	slices.SortFunc(all, func(x, y *made[*object]) int { return cmp.Compare(x.name, y.name) })
	return all
}
