package graphql

import (
	"math"

	"google.golang.org/protobuf/reflect/protoreflect"
)

// The scalars that GraphQL does not have itself.
const (
	scalarInt64     = "Int64"
	scalarUint64    = "UInt64"
	scalarBytes     = "Bytes"
	scalarTimestamp = "Timestamp"
	scalarDuration  = "Duration"
	scalarFieldMask = "FieldMask"
	jsonValue       = "JSON"

	emptyMessage = "Boolean" // there is nothing in it but that it is there
)

// scalars are they, described.
var scalars = map[string]string{
	scalarInt64:     "A whole number of 64 bits, or one of 32 bits that has no sign: a string of decimal digits. A number is taken too.",
	scalarUint64:    "A whole number of 64 bits without a sign: a string of decimal digits. A number is taken too.",
	scalarBytes:     "Bytes in base64.",
	scalarTimestamp: "A time as RFC 3339 has it, in UTC: \"2026-01-02T03:04:05Z\".",
	scalarDuration:  "Seconds with an s behind them: \"1.5s\".",
	scalarFieldMask: "Paths of fields, separated by commas: \"name,email\".",
	jsonValue:       "Any value of JSON.",
}

// wellKnown are the types of the messages that JSON has a form of its own for.
var wellKnown = map[protoreflect.FullName]string{
	"google.protobuf.Timestamp":   scalarTimestamp,
	"google.protobuf.Duration":    scalarDuration,
	"google.protobuf.FieldMask":   scalarFieldMask,
	"google.protobuf.Empty":       emptyMessage,
	"google.protobuf.Struct":      jsonValue,
	"google.protobuf.Value":       jsonValue,
	"google.protobuf.ListValue":   jsonValue,
	"google.protobuf.Any":         jsonValue,
	"google.protobuf.BoolValue":   "Boolean",
	"google.protobuf.StringValue": "String",
	"google.protobuf.BytesValue":  scalarBytes,
	"google.protobuf.Int32Value":  "Int",
	"google.protobuf.UInt32Value": scalarInt64,
	"google.protobuf.Int64Value":  scalarInt64,
	"google.protobuf.UInt64Value": scalarUint64,
	"google.protobuf.FloatValue":  "Float",
	"google.protobuf.DoubleValue": "Float",
}

func isWellKnown(d protoreflect.MessageDescriptor) bool { return wellKnown[d.FullName()] != "" }

// isWrapper reports whether a message is one of google/protobuf/wrappers.proto: a value that may be absent.
func isWrapper(d protoreflect.MessageDescriptor) bool {
	return d.ParentFile() != nil && d.ParentFile().Path() == "google/protobuf/wrappers.proto"
}

// scalarName is the name of a field's scalar, "" where it is none.
func scalarName(f protoreflect.FieldDescriptor) string {
	switch f.Kind() {
	case protoreflect.BoolKind:
		return "Boolean"
	case protoreflect.StringKind:
		if isKey(f) {
			return "ID"
		}
		return "String"
	case protoreflect.BytesKind:
		return scalarBytes
	case protoreflect.FloatKind, protoreflect.DoubleKind:
		return "Float"
	case protoreflect.Int32Kind, protoreflect.Sint32Kind, protoreflect.Sfixed32Kind:
		return "Int"
	case protoreflect.Uint32Kind, protoreflect.Fixed32Kind:
		// GraphQL's Int ends at 2^31 - 1: half of these are beyond, unless a rule says that they are not.
		if r := rulesOf(f).GetUint32(); r != nil && (r.HasLte() && r.GetLte() <= math.MaxInt32 || r.HasLt() && r.GetLt() <= math.MaxInt32) {
			return "Int"
		}
		return scalarInt64
	case protoreflect.Int64Kind, protoreflect.Sint64Kind, protoreflect.Sfixed64Kind:
		return scalarInt64
	case protoreflect.Uint64Kind, protoreflect.Fixed64Kind:
		return scalarUint64
	case protoreflect.MessageKind, protoreflect.GroupKind:
		return wellKnown[f.Message().FullName()]
	default:
		return ""
	}
}

// isKey reports whether a string names something: it is called id, or ends so.
func isKey(f protoreflect.FieldDescriptor) bool {
	name := string(f.Name())
	return name == "id" || len(name) > 3 && (name[len(name)-3:] == "_id" || len(name) > 4 && name[len(name)-4:] == "_ids" || name == "ids") || name == "ids"
}
