package graphql

import (
	"flag"
	"os"
	"strings"
	"testing"

	"google.golang.org/protobuf/reflect/protoreflect"

	businessv1 "github.com/nearside-dev/nearside/gen/nearside/business/v1"
	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/internal/descriptors"
)

var update = flag.Bool("update", false, "write testdata/schema.graphql")

// services are the mesh's own.
func services(tb testing.TB) []Service {
	tb.Helper()
	comments, err := descriptors.Comments()
	if err != nil {
		tb.Fatal(err)
	}
	var out []Service
	for _, f := range []protoreflect.FileDescriptor{
		businessv1.File_nearside_business_v1_user_service_proto, businessv1.File_nearside_business_v1_order_service_proto,
		datav1.File_nearside_data_v1_data_service_proto,
	} {
		out = append(out, Service{Descriptor: f.Services().Get(0), Comments: comments})
	}
	return out
}

func build(tb testing.TB, services []Service) *Schema {
	tb.Helper()
	s, err := Build(services, func(service string, err error) { tb.Errorf("%s: %v", service, err) })
	if err != nil {
		tb.Fatal(err)
	}
	return s
}

// TestSchema holds the schema of the mesh's own services against a file, which is read in review.
func TestSchema(t *testing.T) {
	const file = "testdata/schema.graphql"
	got := build(t, services(t)).SDL()
	if *update {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Error("testdata/schema.graphql is not what the protos say: run make generate")
	}
	for _, line := range []string{
		"  user(id: ID!): User\n", "  users(pageSize: Int, pageToken: String): [User!]\n", "  createUser(email: String!, name: String!): User\n",
		"  order(id: ID!): Order\n", "  placeOrder(userId: ID!, items: [OrderItemInput!]!): Order\n", "  user: User\n",
		"  orders(pageSize: Int, pageToken: String): [Order!]\n", "  totalCents: Int64!\n", "  createTime: Timestamp\n",
	} {
		if !strings.Contains(got, line) {
			t.Errorf("the schema has no line %q", line)
		}
	}
}
