package servicedesc_test

import (
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"

	businessv1 "github.com/nearside-dev/nearside/gen/nearside/business/v1"
	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/internal/meshtest/echo"
	"github.com/nearside-dev/nearside/internal/servicedesc"
)

func files(t *testing.T, change func(*descriptorpb.FileDescriptorSet)) []byte {
	t.Helper()
	var set descriptorpb.FileDescriptorSet
	if err := proto.Unmarshal(echo.Descriptors(), &set); err != nil {
		t.Fatal(err)
	}
	change(&set)
	b, err := proto.Marshal(&set)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestRead(t *testing.T) {
	withMore := files(t, func(s *descriptorpb.FileDescriptorSet) {
		s.File = append(s.File, &descriptorpb.FileDescriptorProto{Name: new("other.proto"), Syntax: new("proto3")})
	})
	s, err := servicedesc.Read(withMore, "")
	if err != nil {
		t.Fatal(err)
	}
	if s.Name != echo.Name || len(s.Methods) != 5 || !s.Methods[1].NoSideEffects || s.Methods[0].NoSideEffects ||
		!s.Methods[2].ServerStreaming || !s.Methods[3].ClientStreaming {
		t.Errorf("got %+v", s)
	}
	if len(s.Set) >= len(withMore) {
		t.Error("what the service does not need is kept")
	}
	again, err := servicedesc.Read(s.Set, echo.Name)
	if err != nil || string(again.Set) != string(s.Set) {
		t.Errorf("read again: %v", err)
	}
	if _, err := servicedesc.Read(files(t, func(s *descriptorpb.FileDescriptorSet) { s.File = s.File[1:] }), ""); err != nil {
		t.Errorf("without a file of google/protobuf: %v", err)
	}
}

func TestWhatIsWrong(t *testing.T) {
	for _, test := range []struct {
		name, want string
		service    string
		change     func(*descriptorpb.FileDescriptorSet)
	}{
		{"an import is missing", "is not in the descriptors", "", func(s *descriptorpb.FileDescriptorSet) {
			s.File[1].Dependency = append(s.File[1].Dependency, "acme/other.proto")
		}},
		{"it imports itself", "imports itself", "", func(s *descriptorpb.FileDescriptorSet) {
			s.File[1].Dependency = append(s.File[1].Dependency, s.File[1].GetName())
		}},
		{"a file twice", "twice", "", func(s *descriptorpb.FileDescriptorSet) { s.File = append(s.File, s.File[1]) }},
		{"no service", "no service", "", func(s *descriptorpb.FileDescriptorSet) { s.File[1].Service = nil }},
		{"another service", "no service acme.X", "acme.X", func(*descriptorpb.FileDescriptorSet) {}},
		{"two services", "say which", "", func(s *descriptorpb.FileDescriptorSet) {
			s.File[1].Service = append(s.File[1].Service, &descriptorpb.ServiceDescriptorProto{Name: new("Other")})
		}},
		{"no methods", "0 methods", "", func(s *descriptorpb.FileDescriptorSet) { s.File[1].Service[0].Method = nil }},
		{"an unknown type", "not found", "", func(s *descriptorpb.FileDescriptorSet) {
			s.File[1].Service[0].Method[0].InputType = new(".acme.None")
		}},
		{"too large", "at most", "", func(s *descriptorpb.FileDescriptorSet) {
			s.File[1].Service[0].Method[0].Name = new(strings.Repeat("x", servicedesc.MaxSetBytes))
		}},
	} {
		if _, err := servicedesc.Read(files(t, test.change), test.service); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v", test.name, err)
		}
	}
	if _, err := servicedesc.Read([]byte("{}"), ""); err == nil {
		t.Error("JSON is taken")
	}
}

func FuzzRead(f *testing.F) {
	f.Add(echo.Descriptors(), "")
	f.Fuzz(func(t *testing.T, set []byte, name string) {
		s, err := servicedesc.Read(set, name)
		if err != nil {
			return
		}
		if _, err := servicedesc.Read(s.Set, s.Name); err != nil {
			t.Errorf("what was kept cannot be read: %v", err)
		}
	})
}

func TestJSONPath(t *testing.T) {
	order := (&businessv1.PlaceOrderRequest{}).ProtoReflect().Descriptor()
	query := (&datav1.QueryRequest{}).ProtoReflect().Descriptor()
	put := (&datav1.Put{}).ProtoReflect().Descriptor()
	for _, tc := range []struct {
		message    protoreflect.MessageDescriptor
		path, want string
	}{
		{order, "user_id", "userId"},
		{order, "items[0].price_cents", "items[0].priceCents"},
		{order, "items[0", "items[0"},
		{order, "no_field", "no_field"},
		{order, "user_id.more_of_it", "userId.more_of_it"},
		{order, "items[0].no_field", "items[0].no_field"},
		{query, "consistency.max_wait", "consistency.maxWait"},
		{query, "statement.named_parameters[\"a_b.c_d\"].text_bytes", "statement.namedParameters[\"a_b.c_d\"].text_bytes"},
		{put, "values.some_column", "values.some_column"},
		{order, "", ""},
		{order, "idempotency-key", "idempotency-key"},
		{order, "user_id: is of no user", "user_id: is of no user"},
	} {
		if got := servicedesc.JSONPath(tc.message, tc.path); got != tc.want {
			t.Errorf("%s is %s, want %s", tc.path, got, tc.want)
		}
	}
}

func FuzzJSONPath(f *testing.F) {
	f.Add("items[0].price_cents")
	f.Add("items[.].x")
	order := (&businessv1.PlaceOrderRequest{}).ProtoReflect().Descriptor()
	f.Fuzz(func(t *testing.T, path string) {
		if got := servicedesc.JSONPath(order, path); len(got) > len(path) {
			t.Errorf("%q became %q", path, got)
		}
	})
}
