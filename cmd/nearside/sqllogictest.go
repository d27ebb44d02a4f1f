package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/durationpb"

	controlv1 "github.com/nearside-dev/nearside/gen/nearside/control/v1"
	"github.com/nearside-dev/nearside/gen/nearside/control/v1/controlv1connect"
	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/gen/nearside/data/v1/datav1connect"
	"github.com/nearside-dev/nearside/internal/cli"
	"github.com/nearside-dev/nearside/internal/httpclient"
	"github.com/nearside-dev/nearside/internal/rpcheader"
	"github.com/nearside-dev/nearside/internal/sqllogictest"
	"github.com/nearside-dev/nearside/internal/sqlsplit"
	"github.com/nearside-dev/nearside/internal/value"
	"github.com/nearside-dev/nearside/services/primary"
	"github.com/nearside-dev/nearside/sidecar"
)

// edgeWait is how long a region may take to have what was written.
const edgeWait = 10 * time.Second

func sqllogictestCommand(app *cli.App) *cobra.Command {
	var edge, verbose bool
	cmd := &cobra.Command{
		Use:   "sqllogictest [--edge] FILE...",
		Short: "Run files of SQLite's sqllogictest corpus",
		Long: `Run files of SQLite's sqllogictest corpus on a mesh of its own, in a temporary folder:
statements at the primary, queries at the primary and, with --edge, in a region that
has caught up. Each file has a new database and one line of the answer: how many
records passed and failed, and how many queries the region passed on to the primary,
by reason (see nearside status --fallbacks).
Records about temporary views are skipped: no caller may make them.`,
		Example: "  nearside sqllogictest --edge test/select1.test test/evidence/*.test",
		Args:    cobra.MinimumNArgs(1),
		RunE: app.Run(func(cmd *cobra.Command, files []string) error {
			ctx, stop := untilSignal(cmd.Context())
			defer stop()
			return runLogicTests(ctx, app, files, edge, verbose)
		}),
	}
	cmd.Flags().BoolVar(&edge, "edge", false, "ask the queries in a region too")
	cmd.Flags().BoolVar(&verbose, "verbose", false, "show the first failures of each file")
	return cmd
}

// logicReport is what became of a file, as programs read it.
type logicReport struct {
	File      string   `json:"file"`
	Passed    int      `json:"passed"`
	Failed    int      `json:"failed"`
	Skipped   int      `json:"skipped"`
	Queries   int      `json:"queries"`
	Fallbacks int      `json:"fallbacks"`
	Reasons   string   `json:"reasons,omitempty"` // of the fallbacks: schema 2, indexed 1
	Failures  []string `json:"failures,omitempty"`
}

func runLogicTests(ctx context.Context, app *cli.App, files []string, edge, verbose bool) (err error) {
	m, err := startLogicMesh(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, m.close(context.WithoutCancel(ctx))) }()
	failed := 0
	for i, path := range files {
		r, err := m.run(ctx, i, path, edge)
		if err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			r.Failed++
			r.Failures = append(r.Failures, err.Error())
		}
		if r.Failed > 0 {
			failed++
		}
		if err := showLogicReport(app, path, r, verbose); err != nil {
			return err
		}
	}
	if failed > 0 {
		return fmt.Errorf("%d of %d files failed", failed, len(files))
	}
	return nil
}

func showLogicReport(app *cli.App, path string, r sqllogictest.Report, verbose bool) error {
	if app.JSON {
		return app.WriteJSON(logicReport{
			File: path, Passed: r.Passed, Failed: r.Failed, Skipped: r.Skipped, Queries: r.Queries, Fallbacks: r.Fallbacks, Reasons: r.Reasons,
			Failures: r.Failures,
		})
	}
	reasons := ""
	if r.Reasons != "" {
		reasons = " (" + r.Reasons + ")"
	}
	_, err := fmt.Fprintf(app.Stdout, "%s: %d pass, %d fail, %d fallback of %d queries%s, %d skipped\n",
		path, r.Passed, r.Failed, r.Fallbacks, r.Queries, reasons, r.Skipped)
	if verbose || r.Failed > 0 {
		for _, failure := range r.Failures {
			_, ferr := fmt.Fprintf(app.Stderr, "%s: %s\n", path, failure)
			err = cmp.Or(err, ferr)
		}
	}
	return err
}

// logicMesh is a primary and one region away from it.
type logicMesh struct {
	primary, region datav1connect.DataServiceClient
	status          controlv1connect.StatusServiceClient // the region's
	closers         []func(context.Context) error
}

func startLogicMesh(ctx context.Context) (m *logicMesh, err error) {
	m = &logicMesh{}
	defer func() {
		if err != nil {
			err = errors.Join(err, m.close(context.WithoutCancel(ctx)))
		}
	}()
	dir, err := os.MkdirTemp("", "nearside-sqllogictest-")
	if err != nil {
		return nil, err
	}
	m.closers = append(m.closers, func(context.Context) error { return os.RemoveAll(dir) })
	const anyPort = "127.0.0.1:0"
	logger := slog.New(slog.DiscardHandler)
	p, err := primary.Start(ctx, primary.Config{
		Dir: filepath.Join(dir, "primary"), Listen: anyPort, AdminListen: anyPort, Region: "us-east-1", Logger: logger,
		NoAuth: true,
	})
	if err != nil {
		return nil, err
	}
	m.closers = append(m.closers, p.Close)
	s, err := sidecar.Start(ctx, sidecar.Config{
		Region: "eu-west-1", PrimaryURL: p.URL(), Listen: anyPort, AdminListen: anyPort, Dir: filepath.Join(dir, "region"),
		Logger: logger, NoAuth: true,
	})
	if err != nil {
		return nil, err
	}
	m.closers = append(m.closers, s.Close)
	client := httpclient.NewUnary()
	m.closers = append(m.closers, func(context.Context) error { client.CloseIdleConnections(); return nil })
	m.primary = datav1connect.NewDataServiceClient(client, p.URL())
	m.region = datav1connect.NewDataServiceClient(client, s.URL())
	m.status = controlv1connect.NewStatusServiceClient(client, s.URL())
	ready, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	return m, s.WaitReady(ready)
}

func (m *logicMesh) close(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, closeTimeout)
	defer cancel()
	var errs []error
	for _, closer := range slices.Backward(m.closers) {
		errs = append(errs, closer(ctx))
	}
	return errors.Join(errs...)
}

// run runs a file in a database of its own.
func (m *logicMesh) run(ctx context.Context, i int, path string, edge bool) (r sqllogictest.Report, err error) {
	file, err := os.Open(path)
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	side := &logicSide{mesh: m, database: fmt.Sprintf("file%d", i+1)}
	made, err := m.primary.CreateDatabase(ctx, connect.NewRequest(&datav1.CreateDatabaseRequest{Name: side.database}))
	if err != nil {
		return r, err
	}
	side.meshMark = made.Msg.GetAnswer().GetBookmark()
	if !edge {
		return sqllogictest.Run(ctx, file, side, false)
	}
	if err := side.awaitRegion(ctx); err != nil {
		return r, err
	}
	before, err := side.fallbacks(ctx)
	if err != nil {
		return r, err
	}
	r, err = sqllogictest.Run(ctx, file, side, true)
	if err != nil || r.Fallbacks == 0 {
		return r, err
	}
	after, err := side.fallbacks(ctx)
	for reason, n := range before {
		after[reason] -= n
	}
	var reasons []string
	for _, reason := range slices.Sorted(maps.Keys(after)) {
		if after[reason] > 0 {
			reasons = append(reasons, fmt.Sprintf("%s %d", reason, after[reason]))
		}
	}
	r.Reasons = strings.Join(reasons, ", ")
	return r, err
}

// fallbacks are the queries of the side's database that the region has left to the primary so far, by reason.
func (s *logicSide) fallbacks(ctx context.Context) (map[string]uint64, error) {
	res, err := s.mesh.status.GetStatus(ctx, connect.NewRequest(&controlv1.GetStatusRequest{LocalOnly: true, Fallbacks: true}))
	if err != nil {
		return nil, err
	}
	counts := make(map[string]uint64)
	for _, region := range res.Msg.GetRegions() {
		for _, f := range region.GetFallbacks() {
			if f.GetDatabase() == s.database {
				counts[f.GetReason()] += f.GetCount()
			}
		}
	}
	return counts, nil
}

// logicSide runs the records of a file.
type logicSide struct {
	mesh     *logicMesh
	database string
	meshMark string // of the database's making
	mark     string // of the last write
}

var _ sqllogictest.Side = (*logicSide)(nil)

// Execute implements sqllogictest.Side.
func (s *logicSide) Execute(ctx context.Context, sql string) error {
	statements := sqlsplit.NewScanner(strings.NewReader(sql), sqlsplit.Options{})
	for statements.Scan() {
		res, err := s.mesh.primary.Execute(ctx, connect.NewRequest(&datav1.ExecuteRequest{
			Database: s.database, Statement: &datav1.Statement{Sql: statements.Statement().Text},
		}))
		if err != nil {
			return statementError(err)
		}
		s.mark = res.Msg.GetAnswer().GetBookmark()
	}
	return statements.Err()
}

// statementError marks an error that is the statement's own.
func statementError(err error) error {
	switch connect.CodeOf(err) {
	case connect.CodeInvalidArgument, connect.CodeAlreadyExists, connect.CodeFailedPrecondition, connect.CodePermissionDenied:
		return fmt.Errorf("%w: %w", sqllogictest.ErrStatement, err)
	default:
		return err
	}
}

// Query implements sqllogictest.Side.
func (s *logicSide) Query(ctx context.Context, sql string, edge bool) (rows [][]value.Value, fallback bool, err error) {
	req := connect.NewRequest(&datav1.QueryRequest{
		Database: s.database, Statement: &datav1.Statement{Sql: sql},
		Consistency: &datav1.Consistency{MaxWait: durationpb.New(edgeWait)},
	})
	client := s.mesh.primary
	if edge {
		client = s.mesh.region
		req.Header().Set(rpcheader.Bookmark, strings.Trim(s.meshMark+","+s.mark, ","))
	}
	res, err := client.Query(ctx, req)
	if err != nil {
		return nil, false, statementError(err)
	}
	for _, row := range res.Msg.GetResult().GetRows() {
		var values []value.Value
		for _, v := range row.GetValues() {
			values = append(values, value.FromProto(v))
		}
		rows = append(rows, values)
	}
	return rows, res.Msg.GetAnswer().GetSource() == datav1.Source_SOURCE_PRIMARY, nil
}

// awaitRegion waits until the region serves the database.
func (s *logicSide) awaitRegion(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, edgeWait)
	defer cancel()
	for {
		_, fallback, err := s.Query(ctx, "SELECT 1", true)
		if err != nil || !fallback {
			return err
		}
		select {
		case <-time.After(10 * time.Millisecond):
		case <-ctx.Done():
			return fmt.Errorf("the region does not serve database %s: %w", s.database, ctx.Err())
		}
	}
}
