package graphql

import (
	"github.com/vektah/gqlparser/v2/ast"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/dynamicpb"

	graphqlv1 "github.com/nearside-dev/nearside/gen/nearside/graphql/v1"
)

// Service is a service whose methods are fields.
type Service struct {
	Descriptor protoreflect.ServiceDescriptor
	// Comments are those of the service's protos, by full name.
	Comments map[protoreflect.FullName]string
	// Public says that everybody may call it: it is in the schema of those who show no credential.
	Public bool
}

// Schema is what there is to ask for. It is immutable.
type Schema struct {
	ast     *ast.Schema
	sdl     string
	objects map[string]*object // by the name of the type
	enums   map[string]*enum   // by the name of the type
}

// object is an object type: a root, or what is made of a message.
type object struct {
	name   string
	fields map[string]*field
	order  []*field
}

// field is a field of an object type.
type field struct {
	name        string
	typeName    string // what it is of, without lists and nulls
	list        bool
	required    bool // never null
	inner       bool // elements are never null
	description string
	deprecated  bool

	proto protoreflect.FieldDescriptor // of the message that its object is made of; nil for a call
	entry bool                         // proto is a map, and this a list of its entries

	call *method
	args []*argument
	link *link // nil: it is a root's
}

// argument is an argument of a call, or a field of an input type.
type argument struct {
	name        string
	typeText    string // "[OrderItemInput!]!"
	description string
	proto       protoreflect.FieldDescriptor
}

// method is a method that fields call.
type method struct {
	procedure     string // "/package.Service/Method"
	input, output protoreflect.MessageDescriptor
	result        protoreflect.FieldDescriptor // of the answer, what a field is; nil is all of it
	rule          *graphqlv1.Lookup            // what its proto says of look-ups; may be nil
	safe          bool                         // no side effects
	stream        bool
	page          protoreflect.FieldDescriptor // of the request: how many there are in a list; may be nil
}

// link is how a field of an object is looked up.
type link struct {
	source protoreflect.FieldDescriptor // of the object: the key
	param  protoreflect.FieldDescriptor // of the request: what is the key there
	many   bool                         // source has several keys, and the field as many objects
	batch  *batch                       // nil where each key is a call
}

// batch looks several keys up with one call.
type batch struct {
	call   *method
	params protoreflect.FieldDescriptor // of the request: the keys
	result protoreflect.FieldDescriptor // of the answer: the objects, or the lists
	key    protoreflect.FieldDescriptor // of an object, or of a list: its key
	list   protoreflect.FieldDescriptor // of a list: the objects; nil where result are they
	size   int                          // how many keys a call may have
	args   map[string]*argument         // those of the link that the call takes for all keys, by name
}

// enum is an enum type.
type enum struct {
	names   map[protoreflect.EnumNumber]string
	numbers map[string]protoreflect.EnumNumber
}

// SDL is the schema in GraphQL's own language.
func (s *Schema) SDL() string { return s.sdl }

// newMessage returns an empty message. Those that the program knows are read faster.
func newMessage(d protoreflect.MessageDescriptor) proto.Message {
	if t, err := protoregistry.GlobalTypes.FindMessageByName(d.FullName()); err == nil && t.Descriptor() == d {
		return t.New().Interface()
	}
	return dynamicpb.NewMessage(d)
}

// own returns the field of a message that a schema's field is made of: services may bring the same message along with another
// descriptor. It is nil where there is no such field.
func own(m protoreflect.Message, f protoreflect.FieldDescriptor) protoreflect.FieldDescriptor {
	if f.Parent() == m.Descriptor() {
		return f
	}
	other := m.Descriptor().Fields().ByNumber(f.Number())
	if other == nil || other.Kind() != f.Kind() || other.Cardinality() != f.Cardinality() || other.IsMap() != f.IsMap() {
		return nil
	}
	return other
}
