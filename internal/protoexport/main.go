// Command protoexport writes the third-party .proto files our own protos import
// (google/api, google/rpc, buf/validate) into a folder, so that buf needs no
// schema registry. The text is printed from the descriptors linked into the Go
// packages named in go.mod: the protos and the Go code they stand for cannot
// differ in version. The google/protobuf files are left out; buf carries them.
//
// Usage: go run ./internal/protoexport DIR
//
// It is a build-time tool: nothing that serves requests imports it.
package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"buf.build/gen/go/bufbuild/protovalidate/protocolbuffers/go/buf/validate"
	"github.com/jhump/protoreflect/v2/protoprint"
	"google.golang.org/genproto/googleapis/api/annotations"
	"google.golang.org/genproto/googleapis/rpc/code"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/protobuf/reflect/protoreflect"
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: protoexport DIR")
		os.Exit(2)
	}
	if err := export(os.Args[1], roots()); err != nil {
		fmt.Fprintln(os.Stderr, "protoexport:", err)
		os.Exit(1)
	}
}

// roots are the files our protos may import; what those import follows by itself.
func roots() []protoreflect.FileDescriptor {
	return []protoreflect.FileDescriptor{
		annotations.File_google_api_annotations_proto,
		annotations.File_google_api_field_behavior_proto,
		annotations.File_google_api_http_proto,
		code.File_google_rpc_code_proto,
		errdetails.File_google_rpc_error_details_proto,
		status.File_google_rpc_status_proto,
		validate.File_buf_validate_validate_proto,
	}
}

// export prints files and all they import below dir, replacing what is there
// under the same names. The output depends on the descriptors alone.
func export(dir string, files []protoreflect.FileDescriptor) error {
	// Linked descriptors carry no comments and no source order, so a canonical
	// order is the only one that stays the same from build to build.
	printer := protoprint.Printer{SortElements: true}
	for _, file := range closure(files) {
		text, err := printer.PrintProtoToString(file)
		if err != nil {
			return fmt.Errorf("print %s: %w", file.Path(), err)
		}
		path := filepath.Join(dir, filepath.FromSlash(file.Path()))
		if err := os.MkdirAll(filepath.Dir(path), 0o750); err != nil {
			return fmt.Errorf("create folder of %s: %w", file.Path(), err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			return fmt.Errorf("write %s: %w", file.Path(), err)
		}
	}
	return nil
}

// closure returns files and everything they import, each once, without the
// google/protobuf files.
func closure(files []protoreflect.FileDescriptor) []protoreflect.FileDescriptor {
	var (
		all   []protoreflect.FileDescriptor
		seen  = make(map[string]bool)
		visit func(protoreflect.FileDescriptor)
	)
	visit = func(file protoreflect.FileDescriptor) {
		if seen[file.Path()] || strings.HasPrefix(file.Path(), "google/protobuf/") {
			return
		}
		seen[file.Path()] = true
		all = append(all, file)
		imports := file.Imports()
		for i := range imports.Len() {
			visit(imports.Get(i).FileDescriptor)
		}
	}
	for _, file := range files {
		visit(file)
	}
	return all
}
