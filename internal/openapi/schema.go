package openapi

import (
	"slices"

	"buf.build/gen/go/bufbuild/protovalidate/protocolbuffers/go/buf/validate"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// message returns a reference to a message's schema, which is then among the document's.
func (d *document) message(m protoreflect.MessageDescriptor) object {
	if known := wellKnown(m); known != nil {
		return known
	}
	name, known := d.nameOf(m)
	if !known { // a message may have itself
		d.schemas[name] = d.objectOf(m, nil)
	}
	return ref(name)
}

// objectOf is a message's schema without some of its fields.
func (d *document) objectOf(m protoreflect.MessageDescriptor, without []string) object {
	properties := make(object)
	var required []string
	fields := m.Fields()
	for i := range fields.Len() {
		f := fields.Get(i)
		if slices.Contains(without, string(f.Name())) {
			continue
		}
		properties[f.JSONName()] = d.field(f)
		if rulesOf(f).GetRequired() {
			required = append(required, f.JSONName())
		}
	}
	o := described(object{"type": "object", "properties": properties, "additionalProperties": false}, d.comments[m.FullName()])
	if len(required) > 0 {
		o["required"] = required
	}
	return o
}

func rulesOf(f protoreflect.FieldDescriptor) *validate.FieldRules {
	rules, _ := proto.GetExtension(f.Options(), validate.E_Field).(*validate.FieldRules)
	return rules
}

// field is the schema of a field's value.
func (d *document) field(f protoreflect.FieldDescriptor) object {
	rules := rulesOf(f)
	var o object
	switch {
	case f.IsMap():
		o = object{"type": "object", "additionalProperties": d.single(f.MapValue(), nil)}
	case f.IsList():
		o = object{"type": "array", "items": d.single(f, rules.GetRepeated().GetItems())}
		r := rules.GetRepeated()
		if r != nil && r.MinItems != nil {
			o["minItems"] = r.GetMinItems()
		}
		if r != nil && r.MaxItems != nil {
			o["maxItems"] = r.GetMaxItems()
		}
		if r.GetUnique() {
			o["uniqueItems"] = true
		}
	default:
		o = d.single(f, rules)
	}
	return described(o, d.comments[f.FullName()])
}

// single is the schema of one value of a field.
func (d *document) single(f protoreflect.FieldDescriptor, rules *validate.FieldRules) object {
	switch f.Kind() {
	case protoreflect.BoolKind:
		return object{"type": "boolean"}
	case protoreflect.EnumKind:
		return d.enum(f.Enum())
	case protoreflect.StringKind:
		return stringSchema(rules.GetString())
	case protoreflect.BytesKind:
		return object{"type": "string", "contentEncoding": "base64"}
	case protoreflect.FloatKind, protoreflect.DoubleKind:
		return object{"oneOf": []object{{"type": "number"}, {"type": "string", "enum": []string{"NaN", "Infinity", "-Infinity"}}}}
	case protoreflect.Int32Kind, protoreflect.Sint32Kind, protoreflect.Sfixed32Kind:
		return object{"type": "integer", "format": "int32"}
	case protoreflect.Uint32Kind, protoreflect.Fixed32Kind:
		return uint32Schema(rules.GetUint32())
	case protoreflect.Int64Kind, protoreflect.Sint64Kind, protoreflect.Sfixed64Kind:
		return object{"type": []string{"string", "integer"}, "format": "int64"} // written as a string, read as either
	case protoreflect.Uint64Kind, protoreflect.Fixed64Kind:
		return object{"type": []string{"string", "integer"}, "format": "uint64"}
	case protoreflect.MessageKind, protoreflect.GroupKind:
		return d.message(f.Message())
	default:
		return object{}
	}
}

func stringSchema(r *validate.StringRules) object {
	o := object{"type": "string"}
	if r == nil {
		return o
	}
	if r.MinLen != nil {
		o["minLength"] = r.GetMinLen()
	}
	if r.MaxLen != nil {
		o["maxLength"] = r.GetMaxLen()
	}
	if r.Pattern != nil {
		o["pattern"] = r.GetPattern()
	}
	if r.GetEmail() {
		o["format"] = "email"
	}
	return o
}

func uint32Schema(r *validate.UInt32Rules) object {
	o := object{"type": "integer", "format": "uint32", "minimum": 0}
	if r == nil {
		return o
	}
	if _, ok := r.GetGreaterThan().(*validate.UInt32Rules_Gte); ok {
		o["minimum"] = r.GetGte()
	}
	if _, ok := r.GetLessThan().(*validate.UInt32Rules_Lte); ok {
		o["maximum"] = r.GetLte()
	}
	return o
}

// enum returns a reference to an enum's schema.
func (d *document) enum(e protoreflect.EnumDescriptor) object {
	if e.FullName() == "google.protobuf.NullValue" {
		return object{"type": "null"}
	}
	name, known := d.nameOf(e)
	if !known {
		var values []string
		for i := range e.Values().Len() {
			values = append(values, string(e.Values().Get(i).Name()))
		}
		d.schemas[name] = described(object{"type": "string", "enum": values}, d.comments[e.FullName()])
	}
	return ref(name)
}

// wellKnown is the schema of a message that JSON has a form of its own for, or nil.
func wellKnown(m protoreflect.MessageDescriptor) object {
	switch m.FullName() {
	case "google.protobuf.Timestamp":
		return object{"type": "string", "format": "date-time"}
	case "google.protobuf.Duration":
		return object{"type": "string", "pattern": `^-?[0-9]+(\.[0-9]+)?s$`}
	case "google.protobuf.FieldMask":
		return object{"type": "string"}
	case "google.protobuf.Empty", "google.protobuf.Struct":
		return object{"type": "object"}
	case "google.protobuf.Value":
		return object{}
	case "google.protobuf.ListValue":
		return object{"type": "array"}
	case "google.protobuf.Any":
		return object{"type": "object", "properties": object{"@type": object{"type": "string"}}}
	case "google.protobuf.BoolValue":
		return object{"type": []string{"boolean", "null"}}
	case "google.protobuf.StringValue", "google.protobuf.BytesValue":
		return object{"type": []string{"string", "null"}}
	case "google.protobuf.Int32Value", "google.protobuf.UInt32Value":
		return object{"type": []string{"integer", "null"}}
	case "google.protobuf.Int64Value", "google.protobuf.UInt64Value":
		return object{"type": []string{"string", "integer", "null"}}
	case "google.protobuf.DoubleValue", "google.protobuf.FloatValue":
		return object{"type": []string{"number", "string", "null"}}
	default:
		return nil
	}
}

func problemSchema() object {
	text := object{"type": "string"}
	return object{
		"type": "object", "required": []string{"type", "title", "status"},
		"properties": object{
			"type": text, "title": text, "status": object{"type": "integer"}, "detail": text, "instance": text,
			"code":     object{"type": "string", "description": "As calls have it."},
			"reason":   object{"type": "string", "description": "For programs; docs/errors.md lists them."},
			"metadata": object{"type": "object", "additionalProperties": text},
			"errors": object{"type": "array", "items": object{
				"type": "object", "properties": object{"field": text, "detail": text},
			}},
		},
	}
}
