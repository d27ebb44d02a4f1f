package auditlog

import (
	"testing"

	"google.golang.org/protobuf/proto"

	replicationv1 "github.com/nearside-dev/nearside/gen/nearside/replication/v1"
	"github.com/nearside-dev/nearside/internal/catalog"
	"github.com/nearside-dev/nearside/internal/requestid"
)

// Records have their trace as bytes, and those of older builds as text.
func TestTraceOfAWrite(t *testing.T) {
	id := requestid.Of("", "").New()
	for name, record := range map[string]*replicationv1.CommitRecord{
		"bytes": {Trace: id.Place()}, "text": {TraceParent: id.Parent()},
	} {
		b, err := proto.Marshal(record)
		if err != nil {
			t.Fatal(err)
		}
		w, err := writeOf(b, &catalog.Catalog{})
		if err != nil || w.GetTraceId() != id.Trace() {
			t.Errorf("%s: %v, %v", name, w, err)
		}
	}
}
