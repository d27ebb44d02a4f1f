package importer

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	"connectrpc.com/connect"
	"github.com/google/go-cmp/cmp"

	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/internal/rpcerr"
	"github.com/nearside-dev/nearside/internal/value"
)

// recorder answers transactions as a primary that remembers keys would, and keeps them.
type recorder struct {
	requests []*datav1.TransactRequest
	done     map[string]uint64 // the versions of what was done, by key
	version  uint64
	fail     func(*datav1.TransactRequest) error
	orphans  int64 // rows that refer to nothing
}

func (r *recorder) Transact(
	_ context.Context, req *connect.Request[datav1.TransactRequest],
) (*connect.Response[datav1.TransactResponse], error) {
	if r.fail != nil {
		if err := r.fail(req.Msg); err != nil {
			wire, _ := rpcerr.ToConnect(err)
			return nil, wire
		}
	}
	if sql := req.Msg.GetOperations()[0].GetStatement().GetSql(); strings.Contains(sql, "foreign_key_check") {
		orphans := &datav1.ResultSet{Rows: []*datav1.Row{{Values: []*datav1.Value{{Kind: &datav1.Value_Integer{Integer: r.orphans}}}}}}
		return connect.NewResponse(&datav1.TransactResponse{Results: []*datav1.ResultSet{orphans}}), nil
	}
	r.requests = append(r.requests, req.Msg)
	version, replayed := r.done[req.Msg.GetIdempotencyKey()]
	if !replayed {
		r.version++
		version = r.version
	}
	response := &datav1.TransactResponse{
		Replayed: replayed, Version: version,
		Answer: &datav1.Answer{Bookmark: fmt.Sprintf("b%d", len(r.requests))},
	}
	for range req.Msg.GetOperations() {
		response.Results = append(response.Results, &datav1.ResultSet{RowsAffected: 2})
	}
	if r.done == nil {
		r.done = make(map[string]uint64)
	}
	r.done[req.Msg.GetIdempotencyKey()] = version
	return connect.NewResponse(response), nil
}

// batches returns what was sent, a transaction a line; "~" marks foreign keys checked at its end, "!" not at all.
func (r *recorder) batches() string {
	var b strings.Builder
	for _, request := range r.requests {
		if request.GetDeferForeignKeys() {
			b.WriteString("~ ")
		}
		if request.GetUncheckedForeignKeys() {
			b.WriteString("! ")
		}
		for i, op := range request.GetOperations() {
			if i > 0 {
				b.WriteString("; ")
			}
			b.WriteString(op.GetStatement().GetSql())
		}
		b.WriteString("\n")
	}
	return b.String()
}

func options() Options {
	return Options{Database: "d", Name: "dump.sql", BatchStatements: 3, BatchBytes: 40}
}

func TestBatches(t *testing.T) {
	for _, test := range []struct {
		name    string
		in      string
		atomic  bool
		want    string
		skipped int64
		notes   int
	}{
		{name: "nothing", in: " -- only a comment\n;"},
		{name: "by count", in: "INSERT 1;INSERT 2;INSERT 3;INSERT 4", want: "INSERT 1; INSERT 2; INSERT 3\nINSERT 4\n"},
		{
			name: "by bytes", in: "INSERT 1234567890;INSERT 1234567890;INSERT 1234567890",
			want: "INSERT 1234567890; INSERT 1234567890\nINSERT 1234567890\n",
		},
		{
			name: "one larger than a batch", in: "INSERT 1; INSERT " + strings.Repeat("x", 50) + ";INSERT 2",
			want: "INSERT 1\nINSERT " + strings.Repeat("x", 50) + "\nINSERT 2\n",
		},
		{
			name: "schema apart", in: "DROP TABLE a;CREATE TABLE a (x);INSERT 1;INSERT 2;CREATE INDEX i;INSERT 3;",
			want: "~ DROP TABLE a; CREATE TABLE a (x)\nINSERT 1; INSERT 2\n~ CREATE INDEX i\nINSERT 3\n",
		},
		{
			name:    "a dump's own transaction",
			in:      "begin transaction;INSERT 1;SAVEPOINT a;INSERT 2;RELEASE a;COMMIT;/* x */ END;",
			want:    "INSERT 1; INSERT 2\n",
			skipped: 5,
		},
		{
			name:    "settings",
			in:      "PRAGMA journal_mode=WAL;INSERT 1;ANALYZE;INSERT INTO sqlite_stat1 VALUES(1);VACUUM;INSERT 2",
			want:    "INSERT 1; INSERT 2\n",
			skipped: 4, notes: 4,
		},
		{
			name: "foreign keys off and on",
			in:   "INSERT 0;PRAGMA foreign_keys=OFF;INSERT 1;pragma main.Foreign_Keys ( 'no' );INSERT 2;PRAGMA foreign_keys = 1;INSERT 3",
			want: "INSERT 0\n! INSERT 1; INSERT 2\nINSERT 3\n", skipped: 3,
		},
		{
			name: "atomic", atomic: true,
			in:   "PRAGMA foreign_keys=0;CREATE TABLE a (x);INSERT 1;INSERT 2;INSERT 3;INSERT 4;PRAGMA foreign_keys=on",
			want: "! CREATE TABLE a (x); INSERT 1; INSERT 2; INSERT 3; INSERT 4\n", skipped: 2,
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			// In pieces of one byte too: batches must not depend on how the input arrives.
			for _, in := range []io.Reader{strings.NewReader(test.in), iotest.OneByteReader(strings.NewReader(test.in))} {
				r := &recorder{}
				opts := options()
				opts.Atomic = test.atomic
				notes := 0
				opts.OnNote = func(string) { notes++ }
				summary, err := Run(t.Context(), r, in, opts)
				if err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff(test.want, r.batches()); diff != "" {
					t.Error(diff)
				}
				statements := int64(strings.Count(test.want, "\n") + strings.Count(test.want, "; "))
				want := Summary{
					Statements: statements, SkippedStatements: test.skipped, Rows: 2 * statements,
					Batches: len(r.requests), Bytes: summary.Bytes, Bookmark: summary.Bookmark,
				}
				if len(r.requests) > 0 {
					want.Bookmark = fmt.Sprintf("b%d", len(r.requests))
				}
				if diff := cmp.Diff(want, summary); diff != "" {
					t.Error(diff)
				}
				if notes != test.notes {
					t.Errorf("%d notes, want %d", notes, test.notes)
				}
			}
		})
	}
}

// TestOrphansAreTold imports a dump that turns foreign keys off and leaves rows that refer to nothing.
func TestOrphansAreTold(t *testing.T) {
	r := &recorder{orphans: 3}
	opts := options()
	var notes []string
	opts.OnNote = func(note string) { notes = append(notes, note) }
	if _, err := Run(t.Context(), r, strings.NewReader("PRAGMA foreign_keys=OFF;INSERT 1"), opts); err != nil {
		t.Fatal(err)
	}
	want := []string{"dump.sql: 3 rows refer to rows that are not there: the dump turns foreign keys off"}
	if diff := cmp.Diff(want, notes); diff != "" {
		t.Error(diff)
	}
}

func TestResume(t *testing.T) {
	const text = "INSERT 1;INSERT 2;INSERT 3;INSERT 4;INSERT 5;INSERT bad;INSERT 7;"
	r := &recorder{fail: func(req *datav1.TransactRequest) error {
		for i, op := range req.GetOperations() {
			if op.GetStatement().GetSql() == "INSERT bad" {
				return rpcerr.New(datav1.ErrorReason_ERROR_REASON_STATEMENT_INVALID, "no such thing").
					With("operation", fmt.Sprint(i))
			}
		}
		return nil
	}}
	_, err := Run(t.Context(), r, strings.NewReader(text), options())
	statement, ok := errors.AsType[*StatementError](err)
	if !ok || statement.Statement != "INSERT bad" {
		t.Fatalf("got %v", err)
	}
	if want := "dump.sql:1: invalid_argument: no such thing: in INSERT bad"; err.Error() != want {
		t.Errorf("got %q, want %q", err, want)
	}
	repaired := strings.Replace(text, "bad", "good", 1)
	summary, err := Run(t.Context(), r, strings.NewReader(repaired), options())
	if err != nil {
		t.Fatal(err)
	}
	want := Summary{Statements: 7, Rows: 14, Batches: 3, SkippedBatches: 1, Bytes: int64(len(repaired) - 7), Bookmark: "b4"}
	if diff := cmp.Diff(want, summary); diff != "" {
		t.Error(diff)
	}

	t.Run("another database", func(t *testing.T) {
		opts := options()
		opts.Database = "e"
		if s, err := Run(t.Context(), r, strings.NewReader(repaired), opts); err != nil || s.SkippedBatches != 0 {
			t.Errorf("got %+v, %v", s, err)
		}
	})
	t.Run("again", func(t *testing.T) {
		opts := options()
		opts.Again = "x"
		if s, err := Run(t.Context(), r, strings.NewReader(repaired), opts); err != nil || s.SkippedBatches != 0 {
			t.Errorf("got %+v, %v", s, err)
		}
	})
	t.Run("another beginning", func(t *testing.T) {
		s, err := Run(t.Context(), r, strings.NewReader("INSERT 0;INSERT 2;INSERT 3;INSERT 4;INSERT 5;INSERT good"), options())
		if err != nil || s.SkippedBatches != 0 {
			t.Errorf("got %+v, %v", s, err)
		}
	})
	t.Run("forgotten", func(t *testing.T) {
		delete(r.done, r.requests[0].GetIdempotencyKey())
		if _, err := Run(t.Context(), r, strings.NewReader(repaired), options()); !errors.Is(err, ErrForgotten) {
			t.Errorf("got %v, want %v", err, ErrForgotten)
		}
	})
}

// An attempt whose answer was lost, behind the client too, is answered as a repeat of the import's own batch.
func TestAnswerLost(t *testing.T) {
	const text = "INSERT 1;INSERT 2;INSERT 3;INSERT 4;INSERT 5;INSERT 6;INSERT 7;INSERT 8;INSERT 9;"
	r := &recorder{}
	r.fail = func(req *datav1.TransactRequest) error {
		if len(r.requests) >= 1 && r.done[req.GetIdempotencyKey()] == 0 {
			r.version++
			r.done[req.GetIdempotencyKey()] = r.version
		}
		return nil
	}
	summary, err := Run(t.Context(), r, strings.NewReader(text), options())
	if err != nil {
		t.Fatal(err)
	}
	if summary.Batches != 3 || summary.SkippedBatches != 0 {
		t.Errorf("got %+v", summary)
	}
}

func TestErrors(t *testing.T) {
	for _, test := range []struct {
		name string
		in   string
		opts func(*Options)
		err  error // of the primary
		want string
	}{
		{name: "rollback", in: "INSERT 1;\nROLLBACK; -- due to errors", want: "dump.sql:2: an import cannot go back"},
		{
			name: "too long", in: "INSERT 1;\nINSERT " + strings.Repeat("x", MaxStatementBytes),
			want: "dump.sql:2: the statement is longer than 1 MiB: in INSERT xxx",
		},
		{
			name: "not closed", in: "INSERT 1;\nINSERT '" + strings.Repeat("x", MaxTransactionBytes),
			want: "dump.sql:2: the statement is longer than 64 MiB, or a quote in it is not closed",
		},
		{name: "not UTF-8", in: "\nINSERT \xff", want: "dump.sql:2: the statement is not valid UTF-8: in INSERT \ufffd"},
		{name: "schema not UTF-8", in: "CREATE TABLE a (x DEFAULT '\xff')", want: "dump.sql:1: the statement is not valid UTF-8"},
		{
			name: "too many for one transaction", in: "\n" + strings.Repeat("X;\n", MaxOperations+1),
			opts: func(o *Options) { o.Atomic = true }, want: "dump.sql:100002: --atomic takes at most 64 MiB",
		},
		{
			name: "too much for one transaction", in: strings.Repeat("INSERT '"+strings.Repeat("x", 1<<20-16)+"';\n", 65),
			opts: func(o *Options) { o.Atomic = true }, want: "dump.sql:65: --atomic takes at most 64 MiB",
		},
		{
			name: "which is not known", in: "INSERT 1;\nINSERT 2\n;", want: "dump.sql: lines 1 to 2: failed_precondition: no",
			err: rpcerr.New(datav1.ErrorReason_ERROR_REASON_CONSTRAINT_FAILED, "no"),
		},
		{
			name: "there is but one", in: "\n\nINSERT 1", want: "dump.sql:3: failed_precondition: no: in INSERT 1",
			err: rpcerr.New(datav1.ErrorReason_ERROR_REASON_CONSTRAINT_FAILED, "no"),
		},
		{
			name: "an operation that is none", in: "INSERT 1;INSERT 2", want: "dump.sql: lines 1 to 1:",
			err: rpcerr.New(datav1.ErrorReason_ERROR_REASON_CONSTRAINT_FAILED, "no").With("operation", "2"),
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := &recorder{}
			if test.err != nil {
				r.fail = func(*datav1.TransactRequest) error { return test.err }
			}
			opts := options()
			if test.opts != nil {
				test.opts(&opts)
			}
			_, err := Run(t.Context(), r, strings.NewReader(test.in), opts)
			if err == nil || !strings.HasPrefix(err.Error(), test.want) {
				t.Errorf("got %.200v, want %s…", err, test.want)
			}
		})
	}
	t.Run("reader", func(t *testing.T) {
		broken := io.MultiReader(strings.NewReader("INSERT 1;INSERT 2"), iotest.ErrReader(io.ErrUnexpectedEOF))
		r := &recorder{}
		if _, err := Run(t.Context(), r, broken, options()); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("got %v", err)
		}
		if len(r.requests) != 0 {
			t.Errorf("half an input was run: %s", r.batches())
		}
	})
}

func TestRetry(t *testing.T) {
	unavailable := rpcerr.New(datav1.ErrorReason_ERROR_REASON_PRIMARY_UNAVAILABLE, "gone")
	synctest.Test(t, func(t *testing.T) {
		begun := time.Now()
		tries := 0
		r := &recorder{fail: func(*datav1.TransactRequest) error {
			tries++
			switch {
			case tries == 1:
				return rpcerr.New(datav1.ErrorReason_ERROR_REASON_OUTCOME_UNKNOWN, "cut")
			case tries == 2:
				return rpcerr.New(datav1.ErrorReason_ERROR_REASON_OVERLOADED, "full").WithRetryAfter(5 * time.Second)
			case time.Since(begun) < 15*time.Second:
				return unavailable
			default:
				return nil
			}
		}}
		opts := options()
		opts.RetryFor = 30 * time.Second
		if _, err := Run(t.Context(), r, strings.NewReader("INSERT 1"), opts); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(begun); took < 15*time.Second || took > 15*time.Second+maxPause {
			t.Errorf("took %v", took)
		}
		if tries < 5 || tries > 20 {
			t.Errorf("%d tries", tries)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		begun := time.Now()
		r := &recorder{fail: func(*datav1.TransactRequest) error { return unavailable }}
		opts := options()
		opts.RetryFor = 10 * time.Second
		_, err := Run(t.Context(), r, strings.NewReader("INSERT 1"), opts)
		if connect.CodeOf(err) != connect.CodeUnavailable || time.Since(begun) > opts.RetryFor {
			t.Errorf("got %v after %v", err, time.Since(begun))
		}
	})
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		r := &recorder{fail: func(*datav1.TransactRequest) error { return unavailable }}
		opts := options()
		opts.RetryFor = time.Hour
		if _, err := Run(ctx, r, strings.NewReader("INSERT 1"), opts); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
	})
}

func TestLift(t *testing.T) {
	long := strings.Repeat("it''s ", MaxStatementBytes/6+1)
	for _, test := range []struct {
		name, in, sql string
		parameters    []value.Value
	}{
		{name: "nothing to do", in: "INSERT INTO a VALUES('x')", sql: "INSERT INTO a VALUES('x')"},
		{
			name: "long text", in: "INSERT INTO a VALUES(1,'" + long + "','x') -- '", sql: "INSERT INTO a VALUES(1,?,'x') -- '",
			parameters: []value.Value{value.Text(strings.ReplaceAll(long, "''", "'"))},
		},
		{
			name: "long blob", in: "INSERT INTO [?] VALUES(X'" + strings.Repeat("0aFf", MaxStatementBytes/4) + "')",
			sql: "INSERT INTO [?] VALUES(?)", parameters: []value.Value{value.Blob(bytes.Repeat([]byte{10, 255}, MaxStatementBytes/4))},
		},
		{
			name: "not UTF-8", in: "INSERT INTO a VALUES('x','\xff''')", sql: "INSERT INTO a VALUES('x',?)",
			parameters: []value.Value{value.TextBytes([]byte("\xff'"))},
		},
		{name: "many short ones", in: "INSERT INTO a VALUES" + strings.Repeat("('0123456789012345678901234567890123456789'),", 25_000) + "(1)"},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, err := statementOf(test.in, roleRows)
			if err != nil {
				t.Fatal(err)
			}
			if len(got.GetSql()) > MaxStatementBytes {
				t.Errorf("still %d bytes", len(got.GetSql()))
			}
			if test.sql == "" {
				return
			}
			if diff := cmp.Diff(test.sql, got.GetSql()); diff != "" {
				t.Error(diff)
			}
			if !slices.EqualFunc(test.parameters, value.FromProtos(got.GetParameters()), value.Equal) {
				t.Errorf("%d other parameters", len(got.GetParameters()))
			}
		})
	}
}

func TestForeignKeys(t *testing.T) {
	for text, want := range map[string][2]bool{ // off, ok
		"PRAGMA foreign_keys=OFF":          {true, true},
		"pragma\n foreign_keys = 0":        {true, true},
		`PRAGMA foreign_keys("false")`:     {true, true},
		"PRAGMA foreign_keys=on":           {false, true},
		"PRAGMA main.foreign_keys = TRUE":  {false, true},
		"PRAGMA foreign_keys":              {false, false},
		"PRAGMA foreign_key_check(a)":      {false, false},
		"PRAGMA defer_foreign_keys=OFF":    {false, false},
		"PRAGMA foreign_keys_extended=OFF": {false, false},
	} {
		if off, ok := foreignKeys(text); off != want[0] || ok != want[1] {
			t.Errorf("%s: got %v, %v, want %v", text, off, ok, want)
		}
	}
}

func TestAbridge(t *testing.T) {
	for in, want := range map[string]string{
		"INSERT\n\tINTO a":                 "INSERT INTO a",
		"é" + strings.Repeat("ab", 1000):   "é" + strings.Repeat("ab", 39) + "a…",
		"SELECT '\xff'":                    "SELECT '\ufffd'",
		strings.Repeat("日", 80):            strings.Repeat("日", 80),
		strings.Repeat(" ", 2000) + "late": "",
	} {
		if got := abridge(in); got != want {
			t.Errorf("abridge(%.20q…) = %q, want %q", in, got, want)
		}
	}
}

func BenchmarkRun(b *testing.B) {
	line := "INSERT INTO tracks VALUES(1,'For Those About To Rock (We Salute You)',1,1,1,'Angus Young',343719,11170334,0.99);\n"
	text := strings.Repeat(line, 10_000)
	b.SetBytes(int64(len(text)))
	b.ReportAllocs()
	for b.Loop() {
		opts := options()
		opts.BatchStatements, opts.BatchBytes = 500, 1<<20
		if _, err := Run(b.Context(), &recorder{}, strings.NewReader(text), opts); err != nil {
			b.Fatal(err)
		}
	}
}
