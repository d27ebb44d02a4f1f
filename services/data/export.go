package data

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"connectrpc.com/connect"
	"github.com/prometheus/client_golang/prometheus"

	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/internal/catalog"
	"github.com/nearside-dev/nearside/internal/rpcerr"
	"github.com/nearside-dev/nearside/internal/rpcheader"
	"github.com/nearside-dev/nearside/internal/sqlrun"
	"github.com/nearside-dev/nearside/services/data/engine"
	"github.com/nearside-dev/nearside/services/data/registry"
)

// An export is one read transaction, which holds back the checkpoints of its database, so it is bounded in time and number.
const (
	exportTimeout    = time.Hour
	maxExports       = 2 // at a time
	exportRetryAfter = 10 * time.Second
)

func refusedExports() prometheus.Counter {
	return prometheus.NewCounter(prometheus.CounterOpts{
		Name: "nearside_exports_refused_total", Help: "Exports refused because as many as may were running.",
	})
}

// RegisterMetrics registers the service's metrics. It is called once for each registerer.
func (s *Service) RegisterMetrics(r prometheus.Registerer) error {
	running := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "nearside_exports_running", Help: "Exports that run, each in a read transaction that holds back checkpoints.",
	}, func() float64 { return float64(len(s.exports)) })
	return errors.Join(r.Register(running), r.Register(s.refused))
}

// Export implements DataService.
func (s *Service) Export(
	ctx context.Context, req *connect.Request[datav1.ExportRequest], stream *connect.ServerStream[datav1.ExportResponse],
) error {
	select {
	case s.exports <- struct{}{}:
		defer func() { <-s.exports }()
	default:
		s.refused.Inc()
		return rpcerr.New(datav1.ErrorReason_ERROR_REASON_OVERLOADED, "%d exports are running", maxExports).
			WithRetryAfter(exportRetryAfter)
	}
	db, err := s.registry.Database(req.Msg.GetDatabase())
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, exportTimeout)
	defer cancel()
	return db.View(ctx, func(v *engine.View) error {
		if err := s.checkFresh(db, v.Head(), req.Msg.GetConsistency(), req.Header()); err != nil {
			return err
		}
		tables, err := exportTables(v.Catalog(), req.Msg.GetTables())
		if err != nil {
			return err
		}
		return s.export(db, v, tables, len(req.Msg.GetTables()) == 0, stream)
	})
}

func (s *Service) export(
	db *registry.Database, v *engine.View, tables []*catalog.Table, all bool, stream *connect.ServerStream[datav1.ExportResponse],
) error {
	begun := time.Now()
	answer := s.readAnswer(db, v, engine.QueryStats{})
	rpcheader.SetAnswer(stream.ResponseHeader(), answer)
	first := &datav1.ExportResponse{Answer: answer}
	for _, o := range v.Catalog().Objects {
		if o.SQL != "" && !strings.HasPrefix(o.Name, "sqlite_") {
			first.Schema = append(first.Schema, &datav1.ExportResponse_Object{Type: o.Type, Name: o.Name, Sql: o.SQL})
		}
	}
	if err := stream.Send(first); err != nil {
		return err
	}
	sink := &exporter{stream: stream}
	for _, t := range tables {
		sink.name = t.Name
		if err := v.ExportRows(t, sink); err != nil {
			return err
		}
	}
	if all {
		sink.name = "sqlite_sequence"
		if err := v.ExportSequences(sink); err != nil {
			return err
		}
	}
	if err := sink.flush(); err != nil {
		return err
	}
	return stream.Send(&datav1.ExportResponse{
		Answer: s.readAnswer(db, v, engine.QueryStats{RowsRead: sink.total, Elapsed: time.Since(begun)}),
	})
}

// exportTables returns the tables that were asked for, in the order of their creation.
func exportTables(c *catalog.Catalog, names []string) ([]*catalog.Table, error) {
	for _, name := range names {
		if !slices.ContainsFunc(c.Tables, func(t *catalog.Table) bool { return catalog.SameName(t.Name, name) }) {
			return nil, rpcerr.New(datav1.ErrorReason_ERROR_REASON_TABLE_NOT_FOUND, "there is no table %s", name).With("table", name)
		}
	}
	var tables []*catalog.Table
	for _, o := range c.Objects {
		if o.Type != "table" {
			continue
		}
		for _, t := range c.Tables {
			wanted := func(name string) bool { return catalog.SameName(t.Name, name) }
			if t.Name == o.Name && (len(names) == 0 || slices.ContainsFunc(names, wanted)) {
				tables = append(tables, t)
			}
		}
	}
	return tables, nil
}

// exporter sends rows in pieces. The caller's flow control holds the read back: nothing is queued.
type exporter struct {
	stream *connect.ServerStream[datav1.ExportResponse]
	name   string // of the table
	rows   []*datav1.Row
	size   int
	total  uint64
}

// Table implements engine.ExportSink.
func (e *exporter) Table(columns []*datav1.Column, rowid string) error {
	if err := e.flush(); err != nil {
		return err
	}
	return e.stream.Send(&datav1.ExportResponse{Table: &datav1.ExportResponse_Table{Name: e.name, Columns: columns, Rowid: rowid}})
}

// Row implements engine.ExportSink.
func (e *exporter) Row(row *datav1.Row, size int) error {
	e.rows = append(e.rows, row)
	e.total++
	if e.size += size; e.size < sqlrun.PieceBytes {
		return nil
	}
	return e.flush()
}

func (e *exporter) flush() error {
	if len(e.rows) == 0 {
		return nil
	}
	err := e.stream.Send(&datav1.ExportResponse{Rows: e.rows})
	e.rows, e.size = nil, 0
	return err
}
