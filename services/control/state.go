package control

import (
	"context"
	"errors"

	"connectrpc.com/connect"

	controlv1 "github.com/nearside-dev/nearside/gen/nearside/control/v1"
	"github.com/nearside-dev/nearside/internal/catalog"
	"github.com/nearside-dev/nearside/internal/rowcodec"
	"github.com/nearside-dev/nearside/services/data/changelog"
	"github.com/nearside-dev/nearside/services/data/engine"
)

// A chunk of rows is sent when it has either.
const (
	maxChunkRows  = 512
	maxChunkBytes = 64 << 10 // of keys
)

// stateWriter sends one table's state.
type stateWriter struct {
	stream   *connect.ServerStream[controlv1.ReadStateResponse]
	log      *changelog.Log
	head     changelog.Head
	database uint32
	table    *catalog.Table

	chunk controlv1.StateRows
	size  int
}

func (w *stateWriter) send(ctx context.Context, v *engine.View, logged changelog.TableSum, withRows bool) (err error) {
	var versions *changelog.RowVersions
	if withRows {
		if versions, err = w.log.RowVersions(w.database, w.table.ID); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, versions.Close()) }()
	}
	var sum changelog.TableSum
	err = v.ScanTable(w.table, withRows, func(key, value []byte) error {
		one := rowcodec.RowSum(w.table.ID, key, value)
		sum.Sum = sum.Sum.Add(one)
		sum.Rows++
		if !withRows {
			return nil
		}
		version, err := versions.Of(key)
		if err != nil {
			return err
		}
		if version > w.head.Version {
			version = 0 // a commit that the view does not have
		}
		return w.row(ctx, key, one, version)
	})
	if err == nil && len(w.chunk.GetKeys()) > 0 {
		err = w.flush()
	}
	if err != nil {
		return err
	}
	return w.stream.Send(&controlv1.ReadStateResponse{Part: &controlv1.ReadStateResponse_Table{Table: &controlv1.StateTable{
		TableId: w.table.ID, Sum: sumBytes(sum.Sum), RowCount: sum.Rows,
		LoggedSum: sumBytes(logged.Sum), LoggedRowCount: logged.Rows,
	}}})
}

func sumBytes(s rowcodec.Sum) []byte {
	b, _ := s.AppendBinary(nil) // never fails
	return b
}

func (w *stateWriter) row(ctx context.Context, key []byte, sum rowcodec.Sum, version uint64) error {
	w.chunk.Keys = append(w.chunk.Keys, append([]byte(nil), key...))
	w.chunk.Sums, _ = sum.AppendBinary(w.chunk.Sums) // never fails
	w.chunk.Versions = append(w.chunk.Versions, version)
	if w.size += len(key); w.size < maxChunkBytes && len(w.chunk.Keys) < maxChunkRows {
		return nil
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	return w.flush()
}

// flush sends the chunk. Send encodes it before it returns, so its memory can be used again.
func (w *stateWriter) flush() error {
	w.chunk.TableId = w.table.ID
	err := w.stream.Send(&controlv1.ReadStateResponse{Part: &controlv1.ReadStateResponse_Rows{Rows: &w.chunk}})
	w.chunk.Keys, w.chunk.Sums, w.chunk.Versions = w.chunk.Keys[:0], w.chunk.Sums[:0], w.chunk.Versions[:0]
	w.size = 0
	return err
}
