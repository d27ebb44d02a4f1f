package importer

import (
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"

	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/internal/rpcerr"
	"github.com/nearside-dev/nearside/internal/sqlsplit"
)

const off = "PRAGMA foreign_keys=OFF;\nBEGIN TRANSACTION;\n"

func TestPlan(t *testing.T) {
	for _, test := range []struct {
		name string
		in   string
		want string
	}{
		{
			name: "children before parents",
			in: "CREATE TABLE c (p REFERENCES [P]);INSERT INTO c VALUES(1);INSERT INTO c VALUES(2);" +
				"CREATE TABLE p (x);INSERT INTO p VALUES(1);INSERT INTO p VALUES(2);CREATE INDEX i ON c (p);COMMIT;",
			want: "~ CREATE TABLE c (p REFERENCES [P]); CREATE TABLE p (x)\n" +
				"~ INSERT INTO p VALUES(1); INSERT INTO p VALUES(2); INSERT INTO c VALUES(1)\n" +
				"~ INSERT INTO c VALUES(2)\n~ CREATE INDEX i ON c (p)\n",
		},
		{
			name: "rows of one table that refer to each other are one transaction",
			in: "CREATE TABLE e (id, boss REFERENCES e);INSERT INTO e VALUES(1,2);INSERT INTO e VALUES(2,3);INSERT INTO e VALUES(3,3);" +
				"INSERT INTO e VALUES(4,1);CREATE TABLE z(x);INSERT INTO z VALUES(1);",
			want: "~ CREATE TABLE e (id, boss REFERENCES e); CREATE TABLE z(x)\n" +
				"~ INSERT INTO e VALUES(1,2); INSERT INTO e VALUES(2,3); INSERT INTO e VALUES(3,3); INSERT INTO e VALUES(4,1)\n" +
				"~ INSERT INTO z VALUES(1)\n",
		},
		{
			name: "tables that refer to each other in a circle too",
			in: "CREATE TABLE a (b REFERENCES b);CREATE TABLE b (a REFERENCES a);CREATE TABLE c(d);INSERT INTO a VALUES(1);" +
				"INSERT INTO b VALUES(1);INSERT INTO c VALUES(1);INSERT INTO a VALUES(2);",
			want: "~ CREATE TABLE a (b REFERENCES b); CREATE TABLE b (a REFERENCES a); CREATE TABLE c(d)\n" +
				"~ INSERT INTO c VALUES(1); INSERT INTO a VALUES(1); INSERT INTO a VALUES(2); INSERT INTO b VALUES(1)\n",
		},
		{
			name: "counters, views and triggers last",
			in: "CREATE TABLE a (x);CREATE TABLE b (x);DELETE FROM sqlite_sequence;INSERT INTO sqlite_sequence VALUES('b',9);" +
				"INSERT INTO b VALUES(1);CREATE VIEW v AS SELECT 1;CREATE TRIGGER t AFTER INSERT ON b BEGIN SELECT 1; END;",
			want: "~ CREATE TABLE a (x); CREATE TABLE b (x)\n~ INSERT INTO b VALUES(1); DELETE FROM sqlite_sequence; " +
				"INSERT INTO sqlite_sequence VALUES('b',9)\n" +
				"~ CREATE VIEW v AS SELECT 1; CREATE TRIGGER t AFTER INSERT ON b BEGIN SELECT 1; END\n",
		},
		{
			name: "what is left out stays out",
			in:   "CREATE TABLE a (x);PRAGMA foreign_keys=ON;CREATE TABLE b (x);COMMIT;PRAGMA user_version=3;CREATE TABLE c (x);",
			want: "~ CREATE TABLE a (x); CREATE TABLE b (x); CREATE TABLE c (x)\n",
		},
		{
			name: "rows that a trigger sees: as it stands",
			in:   "CREATE TABLE b (x);CREATE TRIGGER t AFTER INSERT ON b BEGIN SELECT 1; END;INSERT INTO b VALUES(1);",
			want: "~ CREATE TABLE b (x); CREATE TRIGGER t AFTER INSERT ON b BEGIN SELECT 1; END\n~ INSERT INTO b VALUES(1)\n",
		},
		{
			name: "other statements: as it stands",
			in:   "CREATE TABLE b (x REFERENCES a);INSERT INTO b VALUES(1);PRAGMA foreign_keys=ON;CREATE TABLE a (x);UPDATE b SET x=2;",
			want: "~ CREATE TABLE b (x REFERENCES a)\n~ INSERT INTO b VALUES(1)\n~ CREATE TABLE a (x)\nUPDATE b SET x=2\n",
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			text := "-- a dump\n" + off + test.in
			file := filepath.Join(t.TempDir(), "dump.sql")
			if err := os.WriteFile(file, []byte("not read\n"+text), 0o600); err != nil {
				t.Fatal(err)
			}
			behind, err := os.Open(file)
			if err != nil {
				t.Fatal(err)
			}
			defer behind.Close()
			if _, err := behind.Seek(int64(len("not read\n")), io.SeekStart); err != nil {
				t.Fatal(err)
			}
			for name, in := range map[string]io.Reader{
				"pipe": iotest.OneByteReader(strings.NewReader(text)), "memory": strings.NewReader(text), "file": behind,
			} {
				t.Run(name, func(t *testing.T) {
					r := &recorder{}
					opts := options()
					opts.BatchBytes = 1000
					summary, err := Run(t.Context(), r, in, opts)
					if err != nil {
						t.Fatal(err)
					}
					if diff := cmp.Diff(test.want, r.batches()); diff != "" {
						t.Error(diff)
					}
					all := int64(0)
					for scanner := sqlsplit.NewScanner(strings.NewReader(text), sqlsplit.Options{}); scanner.Scan(); {
						all++
					}
					if got := summary.Statements + summary.SkippedStatements; got != all {
						t.Errorf("%d statements counted, want %d", got, all)
					}
				})
			}
		})
	}
}

func TestPlannedLines(t *testing.T) {
	text := off + "CREATE TABLE a (\n x);\n-- rows\nINSERT INTO a VALUES(1);\nINSERT INTO a VALUES(2);\n\n  INSERT INTO a\n VALUES(3);"
	r := &recorder{fail: func(req *datav1.TransactRequest) error {
		for _, op := range req.GetOperations() {
			if strings.Contains(op.GetStatement().GetSql(), "(3)") {
				return rpcerr.New(datav1.ErrorReason_ERROR_REASON_CONSTRAINT_FAILED, "no")
			}
		}
		return nil
	}}
	_, err := Run(t.Context(), r, strings.NewReader(text), options())
	if want := "dump.sql:9: failed_precondition: no: in INSERT INTO a VALUES(3)"; err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}

func TestLongHead(t *testing.T) {
	r := &recorder{}
	text := "-- " + strings.Repeat("x", maxHeadBytes) + "\n" + off + "INSERT INTO c VALUES(1);CREATE TABLE c (x);"
	if _, err := Run(t.Context(), r, io.MultiReader(strings.NewReader(text)), options()); err != nil {
		t.Fatal(err)
	}
	if want := "~ INSERT INTO c VALUES(1)\n~ CREATE TABLE c (x)\n"; r.batches() != want {
		t.Errorf("got %s, want %s", r.batches(), want)
	}
}

func TestCreatedTable(t *testing.T) {
	for _, test := range []struct {
		in     string
		name   string
		refers []string
	}{
		{in: "CREATE TABLE a (x)", name: "a"},
		{in: "create /* x */ table -- y\n if not exists main.[A b] (x references \"C\"\"d\" (e), y, foreign key (y) References `E` on delete cascade)", name: "a b", refers: []string{`c"d`, "e"}},
		{in: "CREATE TABLE 'a' (x TEXT DEFAULT 'REFERENCES b' /* REFERENCES c */, [REFERENCES d])", name: "a"},
		{in: "CREATE TABLE é (x REFERENCES main.b)", name: "é", refers: []string{"b"}},
		{in: "CREATE TABLE a AS SELECT 1"},
		{in: "CREATE TEMP TABLE a (x)"},
		{in: "CREATE VIRTUAL TABLE a USING fts5 (x)"},
		{in: "CREATE INDEX a ON b (c)"},
		{in: "CREATE TABLE"},
		{in: "CREATE TABLE a (x REFERENCES", name: "a"},
	} {
		name, refers, ok := createdTable(test.in)
		if name != test.name || ok != (test.name != "") || !slices.Equal(refers, test.refers) {
			t.Errorf("%s: got %q, %q, %v", test.in, name, refers, ok)
		}
	}
	for in, want := range map[string]string{
		"INSERT INTO a VALUES(1)":                 "a",
		"insert or replace into \"A\" values (1)": "a",
		"REPLACE INTO main.a SELECT 1":            "a",
		"INSERT a VALUES(1)":                      "",
		"UPDATE a SET x = 1":                      "",
		"INSERT INTO":                             "",
	} {
		if name, ok := insertedTable(in); name != want || ok != (want != "") {
			t.Errorf("%s: got %q, %v", in, name, ok)
		}
	}
}

// FuzzPlan checks that a plan changes the order of statements and nothing else, and that batches do not depend on how the
// input arrives.
func FuzzPlan(f *testing.F) {
	f.Add("CREATE TABLE c (p REFERENCES p);INSERT INTO c VALUES(1);CREATE TABLE p (x);INSERT INTO p VALUES('a;b');COMMIT;")
	f.Add("INSERT INTO a VALUES(1);CREATE TABLE a(x REFERENCES b);CREATE TABLE b(x REFERENCES a);PRAGMA x;INSERT INTO b VALUES(1)")
	f.Add("CREATE TRIGGER t AFTER INSERT ON b BEGIN SELECT 1; END;INSERT INTO b VALUES(1);UPDATE b SET x=[1;")
	f.Add("\xef\xbb\xbfDROP TABLE a;;;-- x\n/* y")
	f.Fuzz(func(t *testing.T, text string) {
		text = off + text
		var want []string
		for scanner := sqlsplit.NewScanner(strings.NewReader(text), sqlsplit.Options{}); scanner.Scan(); {
			s := scanner.Statement().Text
			switch roleOf(s) {
			case roleRows, roleSchema:
				statement, err := statementOf(s, roleOf(s))
				if err != nil {
					return
				}
				want = append(want, statement.GetSql())
			case roleRollback:
				return
			}
		}
		r, piped := &recorder{}, &recorder{}
		if _, err := Run(t.Context(), r, strings.NewReader(text), options()); err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, request := range r.requests {
			for _, op := range request.GetOperations() {
				got = append(got, op.GetStatement().GetSql())
			}
		}
		slices.Sort(want)
		slices.Sort(got)
		if !slices.Equal(want, got) {
			t.Errorf("ran %q, want %q", got, want)
		}
		if _, err := Run(t.Context(), piped, iotest.HalfReader(io.MultiReader(strings.NewReader(text))), options()); err != nil {
			t.Fatal(err)
		}
		if r.batches() != piped.batches() {
			t.Errorf("piped: %q, want %q", piped.batches(), r.batches())
		}
	})
}

// FuzzTokens checks that tokens follow each other, and that lifting literals changes no other token.
func FuzzTokens(f *testing.F) {
	f.Add("INSERT INTO \"a\" VALUES(x'00ff', 'it''s', 1.5e3) -- x")
	f.Add("a'x'b?X'0' [b /* c */ `d``e` 'open")
	f.Add("-'long text'-/'long text'*/")
	f.Add("'\xff''' x''")
	f.Fuzz(func(t *testing.T, text string) {
		all := tokensOf(t, text)
		lifted := lift(text, 4)
		rest := tokensOf(t, lifted.GetSql())
		if len(all) != len(rest) {
			t.Fatalf("%q became %q", text, lifted.GetSql())
		}
		parameters := lifted.GetParameters()
		for i, token := range all {
			if token.text == rest[i].text {
				continue
			}
			v, ok := literal(token)
			if !ok || rest[i].text != "?" || len(parameters) == 0 || !proto.Equal(v, parameters[0]) {
				t.Fatalf("%q became %q", text, lifted.GetSql())
			}
			parameters = parameters[1:]
		}
		if len(parameters) > 0 {
			t.Errorf("%d parameters too many for %q", len(parameters), lifted.GetSql())
		}
	})
}

func tokensOf(t *testing.T, text string) (list []token) {
	end := 0
	for all := (&tokens{text: text}); ; {
		next, ok := all.next()
		if !ok {
			return list
		}
		if next.start < end || next.end <= next.start || text[next.start:next.end] != next.text {
			t.Fatalf("token %+v behind %d in %q", next, end, text)
		}
		next.name()
		end = next.end
		list = append(list, next)
	}
}
