package importer

import (
	"strings"
	"testing"

	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/internal/rpcerr"
)

func TestSplit(t *testing.T) {
	row := "(1, ('a)' || \"(\"), x'00')"
	many := strings.Repeat(row+",\n/* ),( */ ", 60_000) + row
	for _, test := range []struct {
		name, in, head, tail string
	}{
		{"plain", "INSERT INTO a VALUES " + many, "INSERT INTO a VALUES(1", ") "},
		{"semicolon", "insert into a values" + many + " ;", "insert into a values(1", ") "},
		{"columns", "REPLACE INTO [values](\"values\", b) VALUES" + many, "REPLACE INTO [values](\"values\", b) VALUES(1", ") "},
		{"conflict", "INSERT INTO a VALUES" + many + " ON CONFLICT DO NOTHING", "INSERT INTO a VALUES(1", ") ON CONFLICT DO NOTHING"},
		{"returning", "INSERT INTO a VALUES" + many + " RETURNING (b)", "INSERT INTO a VALUES(1", ") RETURNING (b)"},
	} {
		t.Run(test.name, func(t *testing.T) {
			pieces := split(test.in)
			if len(pieces) < 2 {
				t.Fatalf("%d pieces", len(pieces))
			}
			rows := 0
			for _, piece := range pieces {
				if len(piece) > MaxStatementBytes || !strings.HasPrefix(piece, test.head) || !strings.HasSuffix(piece, test.tail) {
					t.Fatalf("%d bytes, %.40q … %q", len(piece), piece, piece[max(0, len(piece)-40):])
				}
				rows += strings.Count(piece, row)
			}
			if rows != 60_001 {
				t.Errorf("%d rows", rows)
			}
		})
	}
	for _, in := range []string{
		"", "INSERT", "INSERT INTO a SELECT * FROM (VALUES (1), (2))", "WITH x AS (SELECT 1) INSERT INTO a VALUES (1), (2)",
		"INSERT INTO a DEFAULT VALUES", "INSERT INTO a VALUES (1), (2", "INSERT INTO a VALUES (1) (2)", "UPDATE a SET b = 1",
		"INSERT INTO a VALUES (1), (2) UNION SELECT 1",
	} {
		if pieces := split(in); len(pieces) > 0 {
			t.Errorf("%q gives %q", in, pieces)
		}
	}
}

// A statement of many rows is several operations: rows may refer to later ones of it, and an error says its line.
func TestLongInsert(t *testing.T) {
	text := "INSERT 1;\nINSERT INTO a VALUES" + strings.Repeat("(1,2,3),", MaxStatementBytes/8) + "(4);\nINSERT 2;"
	opts := options()
	opts.Atomic = true
	r := &recorder{}
	if _, err := Run(t.Context(), r, strings.NewReader(text), opts); err != nil {
		t.Fatal(err)
	}
	if len(r.requests) != 1 || len(r.requests[0].GetOperations()) != 4 || !r.requests[0].GetDeferForeignKeys() {
		t.Fatalf("%d requests", len(r.requests))
	}
	for operation, want := range map[string]string{"0": ":1: ", "1": ":2: ", "2": ":2: ", "3": ":3: "} {
		r.fail = func(*datav1.TransactRequest) error {
			return rpcerr.New(datav1.ErrorReason_ERROR_REASON_STATEMENT_INVALID, "bad").With("operation", operation)
		}
		if _, err := Run(t.Context(), r, strings.NewReader(text), opts); err == nil || !strings.HasPrefix(err.Error(), "dump.sql"+want) {
			t.Errorf("operation %s: %v", operation, err)
		}
	}
}

func FuzzSplit(f *testing.F) {
	f.Add("INSERT INTO a VALUES (1, ')'), (x'00', \"(\") ON CONFLICT DO NOTHING")
	f.Add("REPLACE INTO a(b) VALUES((((1)))),(2);")
	f.Add("INSERT INTO a VALUES(1),/*")
	f.Fuzz(func(t *testing.T, text string) {
		pieces := split(text)
		for _, piece := range pieces {
			if again := split(piece); len(again) != 1 {
				t.Errorf("%q of %q gives %q", piece, text, again)
			}
		}
	})
}
