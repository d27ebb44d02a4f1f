package faults_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/durationpb"

	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/internal/meshtest"
	"github.com/nearside-dev/nearside/internal/meshtest/faultproxy"
	"github.com/nearside-dev/nearside/internal/value"
)

func maxStaleness(d time.Duration) *datav1.Consistency {
	return &datav1.Consistency{Level: datav1.Consistency_LEVEL_MAX_STALENESS, MaxStaleness: durationpb.New(d)}
}

// TestMaxStaleness bounds how old an answer may be while the region hears nothing of the primary's commits: what is too old
// comes from the primary, and if that cannot be reached either it is refused.
func TestMaxStaleness(t *testing.T) {
	m, links := startLinked(t, west)
	m.Exec("", db, "INSERT INTO w VALUES (1, 'old')")
	m.WaitSync(db)
	const bound = 50 * time.Millisecond
	read := func(ctx context.Context, c *datav1.Consistency) (*datav1.GetResponse, error) {
		return get(ctx, m, west, "w", 1, c)
	}

	link := links[west]
	<-link.LoseAfter(faultproxy.HTTP2, faultproxy.Down, 0) // the records, but not the calls
	m.Exec("", db, "UPDATE w SET v = 'new' WHERE id = 1")
	m.Eventually("the copy is too old", func(ctx context.Context) error {
		res, err := read(ctx, maxStaleness(bound))
		if err != nil {
			return err
		}
		a, v := res.GetAnswer(), res.GetRow().GetValues()[1].GetText()
		if a.GetSource() != datav1.Source_SOURCE_PRIMARY {
			if a.GetStalenessMs() > uint32(bound.Milliseconds()) {
				t.Errorf("answered from a copy %d ms old", a.GetStalenessMs())
			}
			return errNotYet
		}
		if v != "new" || !a.GetServedByPrimary() {
			t.Errorf("the primary answers %q: %v", v, a)
		}
		return nil
	})
	link.Cut()
	m.Eventually("the primary is away", func(ctx context.Context) error {
		res, err := read(ctx, maxStaleness(bound))
		if err == nil {
			return fmt.Errorf("answered by %v", res.GetAnswer().GetSource())
		}
		wantError(t, err, connect.CodeUnavailable, datav1.ErrorReason_ERROR_REASON_PRIMARY_UNAVAILABLE)
		return nil
	})
	res, err := read(t.Context(), maxStaleness(time.Hour))
	if err != nil || res.GetAnswer().GetSource() != datav1.Source_SOURCE_REPLICA || res.GetAnswer().GetStalenessMs() == 0 {
		t.Errorf("an hour: %v, %v", res, err)
	}
	link.Heal()
	m.Eventually("the copy is fresh again", func(ctx context.Context) error {
		res, err := read(ctx, maxStaleness(time.Second))
		if err == nil && (res.GetAnswer().GetSource() != datav1.Source_SOURCE_REPLICA || res.GetRow().GetValues()[1].GetText() != "new") {
			err = errNotYet
		}
		return err
	})
}

// TestBatchGetIsOfOneVersion reads a thousand rows that each commit changes all.
func TestBatchGetIsOfOneVersion(t *testing.T) {
	const rows = 1000
	m, _ := startLinked(t, west)
	m.Exec("", db, fmt.Sprintf("WITH n(i) AS (VALUES (1) UNION ALL SELECT i+1 FROM n WHERE i < %d) INSERT INTO w SELECT i, '0' FROM n", rows))
	m.WaitSync(db)
	req := &datav1.BatchGetRequest{Database: db, Table: "w"}
	for i := range rows {
		req.Keys = append(req.Keys, &datav1.Key{Values: []*datav1.Value{value.ToProto(value.Integer(int64(rows - i)))}})
	}
	stop := make(chan struct{})
	var writer sync.WaitGroup
	writer.Go(func() {
		for i := 1; ; i++ {
			select {
			case <-stop:
				return
			default:
				m.Exec("", db, fmt.Sprintf("UPDATE w SET v = '%d'", i))
			}
		}
	})
	seen := make(map[string]bool)
	sources := make(map[datav1.Source]int)
	for len(seen) < 10 {
		for _, region := range []string{west, ""} {
			res, err := m.Client(region).BatchGet(t.Context(), connect.NewRequest(req))
			if err != nil {
				t.Fatal(err)
			}
			sources[res.Msg.GetAnswer().GetSource()]++
			first := res.Msg.GetResults()[0].GetRow()
			for i, r := range res.Msg.GetResults() {
				row := r.GetRow()
				if row.GetValues()[0].GetInteger() != int64(rows-i) || row.GetValues()[1].GetText() != first.GetValues()[1].GetText() {
					t.Fatalf("row %d is %v, the first one %v", i, row, first)
				}
			}
			seen[first.GetValues()[1].GetText()] = true
		}
	}
	close(stop)
	writer.Wait()
	if sources[datav1.Source_SOURCE_PRIMARY] == 0 || len(sources) < 2 {
		t.Errorf("answered by %v", sources)
	}
	req.Keys = append(req.Keys, req.Keys[0])
	_, err := m.Client(west).BatchGet(t.Context(), connect.NewRequest(req))
	wantError(t, err, connect.CodeInvalidArgument, datav1.ErrorReason_ERROR_REASON_FIELD_INVALID)
}

// endless is a query whose rows never end. They cannot be compressed: else whoever does not read them has gigabytes of them made, which
// takes all of a processor's time, before all buffers on the way are full.
const endless = "WITH n(i) AS (VALUES (1) UNION ALL SELECT i+1 FROM n) SELECT i, randomblob(5000) FROM n"

// TestStreams reads streams slowly, all of them, and not to the end.
func TestStreams(t *testing.T) {
	for name, level := range map[string]datav1.Consistency_Level{
		"region": datav1.Consistency_LEVEL_ANY, "primary": datav1.Consistency_LEVEL_PRIMARY,
	} {
		t.Run(name, func(t *testing.T) {
			m, _ := startLinked(t, west) // one of its own: streams that the callers left end a while later
			streams(t, m, &datav1.Consistency{Level: level})
		})
	}
}

// streams reads streams through a region, which come from its replica or the primary.
func streams(t *testing.T, m *meshtest.Mesh, c *datav1.Consistency) {
	t.Helper()
	query := func(ctx context.Context, sql string) (*connect.ServerStreamForClient[datav1.QueryStreamResponse], error) {
		in, err := m.Client(west).QueryStream(ctx, connect.NewRequest(&datav1.QueryStreamRequest{
			Database: db, Statement: &datav1.Statement{Sql: sql}, Consistency: c,
		}))
		if err != nil {
			return nil, err
		}
		if !in.Receive() {
			err := in.Err()
			in.Close()
			return nil, err
		}
		return in, nil
	}

	// Larger than any answer that is not streamed.
	const pieces, size = 20, 4_000_000
	sql := fmt.Sprintf("WITH n(i) AS (VALUES (1) UNION ALL SELECT i+1 FROM n WHERE i < %d) SELECT zeroblob(%d) FROM n", pieces, size)
	in, err := query(t.Context(), sql)
	if err != nil {
		t.Fatal(err)
	}
	total := 0
	for in.Receive() {
		for _, row := range in.Msg().GetRows() {
			total += len(row.GetValues()[0].GetBlob())
		}
	}
	if err := in.Err(); err != nil || total != pieces*size {
		t.Errorf("%d bytes, %v", total, err)
	}
	in.Close()
	_, err = m.Client(west).Query(t.Context(), connect.NewRequest(&datav1.QueryRequest{
		Database: db, Statement: &datav1.Statement{Sql: sql}, Consistency: c,
	}))
	wantError(t, err, connect.CodeResourceExhausted, datav1.ErrorReason_ERROR_REASON_RESULT_TOO_LARGE)

	// Nobody reads these on. They hold no more than their places, and writes and other reads go on.
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	opened := 0
	for {
		in, err := query(ctx, endless)
		if err != nil {
			wantError(t, err, connect.CodeResourceExhausted, datav1.ErrorReason_ERROR_REASON_OVERLOADED)
			break
		}
		defer in.Close()
		if opened++; opened > 100 {
			t.Fatal("there is no limit")
		}
	}
	m.Exec(west, db, "INSERT INTO w (v) VALUES ('beside')")
	var reads sync.WaitGroup
	for range 16 {
		reads.Go(func() {
			if _, err := count(t, m.Client(west), db, "SELECT count(*) FROM w", ""); err != nil {
				t.Error(err)
			}
		})
	}
	reads.Wait()

	// Their callers go: the statements end, and there are places again.
	cancel()
	m.Eventually("a stream has a place", func(ctx context.Context) error {
		in, err := query(ctx, "SELECT 1")
		if err == nil {
			in.Close()
		}
		return err
	})
	noStreams(t, m, opened, c)
}

// noStreams waits until as many streams as there may be are open at once: none is left of others. What it has opened it keeps open, so
// that it has not to wait for the end of streams of its own.
func noStreams(t *testing.T, m *meshtest.Mesh, most int, c *datav1.Consistency) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var open []*connect.ServerStreamForClient[datav1.QueryStreamResponse]
	defer func() {
		cancel() // or Close reads on
		for _, in := range open {
			in.Close()
		}
	}()
	m.Eventually("no statement runs", func(late context.Context) error {
		defer context.AfterFunc(late, cancel)()
		for len(open) < most {
			in, err := m.Client(west).QueryStream(ctx, connect.NewRequest(&datav1.QueryStreamRequest{
				Database: db, Statement: &datav1.Statement{Sql: endless}, Consistency: c,
			}))
			if err != nil {
				return err
			}
			if !in.Receive() {
				err := fmt.Errorf("stream %d of %d: %w", len(open), most, in.Err())
				in.Close()
				return err
			}
			open = append(open, in)
		}
		return nil
	})
}

// TestStatementsTooLarge sends statements through a region that are above the limits of requests.
func TestStatementsTooLarge(t *testing.T) {
	m, _ := startLinked(t, west)
	for name, st := range map[string]*datav1.Statement{
		"text":       {Sql: "SELECT '" + strings.Repeat("x", 1<<20) + "'"},
		"parameters": {Sql: "SELECT 1", Parameters: make([]*datav1.Value, 32767)},
	} {
		for i := range st.GetParameters() {
			st.Parameters[i] = &datav1.Value{}
		}
		_, err := m.Client(west).Execute(t.Context(), connect.NewRequest(&datav1.ExecuteRequest{Database: db, Statement: st}))
		wantError(t, err, connect.CodeInvalidArgument, datav1.ErrorReason_ERROR_REASON_FIELD_INVALID)
		if t.Failed() {
			t.Fatal(name)
		}
	}
	_, err := m.Client(west).Execute(t.Context(), connect.NewRequest(&datav1.ExecuteRequest{
		Database: db, Statement: &datav1.Statement{Sql: "SELECT zeroblob(8388609)"},
	}))
	wantError(t, err, connect.CodeResourceExhausted, datav1.ErrorReason_ERROR_REASON_ROW_TOO_LARGE)
}
