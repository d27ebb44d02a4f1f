package openapi

import (
	"crypto/sha256"
	"strconv"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// problemName is the name of the schema of errors.
const problemName = "Problem"

// fingerprint tells apart files, each with all that it imports.
type fingerprint [sha256.Size]byte

// nameOf returns the name of a message or an enum among the schemas, and whether it is there already. Services of others may have
// different ones of the same name, or different versions of one: those that come later have a number.
func (d *document) nameOf(t protoreflect.Descriptor) (name string, known bool) {
	files := d.fingerprintOf(t.ParentFile())
	name = string(t.FullName())
	for n := 2; ; n++ {
		other, taken := d.names[name]
		if !taken {
			d.names[name] = files
			return name, false
		}
		if other == files {
			return name, true
		}
		name = string(t.FullName()) + "." + strconv.Itoa(n)
	}
}

func (d *document) fingerprintOf(file protoreflect.FileDescriptor) fingerprint {
	if known, ok := d.files[file]; ok {
		return known
	}
	h := sha256.New()
	h.Write([]byte(file.Path()))
	if !file.IsPlaceholder() {
		text, err := proto.MarshalOptions{Deterministic: true}.Marshal(protodesc.ToFileDescriptorProto(file))
		if err == nil { // always, of what was read
			h.Write(text)
		}
		for i := range file.Imports().Len() {
			of := d.fingerprintOf(file.Imports().Get(i).FileDescriptor)
			h.Write(of[:])
		}
	}
	var out fingerprint
	h.Sum(out[:0])
	d.files[file] = out
	return out
}
