package engine

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"

	"google.golang.org/protobuf/proto"

	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	replicationv1 "github.com/nearside-dev/nearside/gen/nearside/replication/v1"
	"github.com/nearside-dev/nearside/internal/catalog"
	"github.com/nearside-dev/nearside/internal/sqlite"
	"github.com/nearside-dev/nearside/internal/sqlrun"
	"github.com/nearside-dev/nearside/internal/value"
	"github.com/nearside-dev/nearside/services/data/changelog"
)

// The engine's own tables. They say what the SQLite file holds, in the same transaction as the data.
const (
	metaTable    = internalPrefix + "meta"
	catalogTable = internalPrefix + "catalog"
)

const setup = `
PRAGMA journal_mode = WAL;
PRAGMA synchronous = NORMAL;
PRAGMA wal_autocheckpoint = 0;
PRAGMA cache_size = -8000;
PRAGMA temp_store = MEMORY;
BEGIN IMMEDIATE;
CREATE TABLE IF NOT EXISTS ` + metaTable + ` (version INTEGER NOT NULL, epoch INTEGER NOT NULL, checksum BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS ` + earlyTable + ` (batch BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS ` + catalogTable + ` (version INTEGER NOT NULL, catalog BLOB NOT NULL);
INSERT INTO ` + metaTable + ` SELECT 0, 0, zeroblob(16) WHERE NOT EXISTS (SELECT 1 FROM ` + metaTable + `);
INSERT INTO ` + catalogTable + ` SELECT 0, x'' WHERE NOT EXISTS (SELECT 1 FROM ` + catalogTable + `);
COMMIT;
`

// open prepares the connection and brings the file up to the log.
func (w *writer) open() error {
	if err := w.conn.Exec(setup); err != nil {
		return err
	}
	if err := w.conn.EnableForeignKeys(true); err != nil {
		return err
	}
	if err := w.recover(); err != nil {
		return err
	}
	w.conn.SetProgress(sqlrun.ProgressOps, w.onProgress)
	return w.conn.SetPreUpdate(w.onChange)
}

// recover makes SQLite and the writer's state what the log says. It is for opening, and for a COMMIT that failed.
func (w *writer) recover() error {
	if !w.conn.Autocommit() {
		if err := w.run("ROLLBACK"); err != nil {
			return err
		}
	}
	w.capture.reset()
	stored, err := w.storedHead()
	if err != nil {
		return err
	}
	if w.head, err = w.log.Head(w.id); err != nil {
		return err
	}
	if w.head.Version == 0 {
		w.head.Epoch = 1 // the first primary's
	}
	if err := w.finishEarly(stored); err != nil {
		return err
	}
	if err := w.checkHistory(stored); err != nil {
		return err
	}
	if w.sums, err = w.log.TableSums(w.id); err != nil {
		return err
	}
	if err := w.loadCatalog(); err != nil {
		return err
	}
	if stored.Version < w.head.Version {
		w.db.logger.Info("replaying the log", slog.Uint64("from", stored.Version), slog.Uint64("to", w.head.Version))
		if err := w.replayLog(stored); err != nil {
			return fmt.Errorf("replay log: %w", err)
		}
		if err := w.noteSchema(); err != nil {
			return err
		}
	}
	return w.loadSequences()
}

// storedHead says what the SQLite file holds.
func (w *writer) storedHead() (h changelog.Head, err error) {
	err = w.rows("SELECT version, epoch, checksum FROM main."+metaTable, nil, func(st *sqlite.Stmt) error {
		h.Version, h.Epoch = uint64(st.ColumnInt64(0)), uint32(st.ColumnInt64(1))
		if copy(h.Checksum[:], st.Column(2).Bytes()) != changelog.ChecksumSize {
			return fmt.Errorf("%w: %s", changelog.ErrCorrupt, metaTable)
		}
		return nil
	})
	return h, err
}

func (w *writer) checkHistory(stored changelog.Head) error {
	if stored.Version > w.head.Version {
		return fmt.Errorf("%w: version %d, the log ends at %d", ErrAhead, stored.Version, w.head.Version)
	}
	logged, err := w.log.At(w.id, stored.Version)
	if err != nil {
		return fmt.Errorf("record of the file's version %d: %w", stored.Version, err)
	}
	if logged.Checksum != stored.Checksum {
		return fmt.Errorf("%w: at version %d", ErrFork, stored.Version)
	}
	return nil
}

func (w *writer) loadCatalog() error {
	c, err := storedCatalog(w.session)
	if err != nil {
		return err
	}
	s, err := readSchema(w.session)
	if err != nil {
		return err
	}
	w.misstated = c.Version > 0 && !slices.Equal(s.rows, c.Schema)
	return w.useCatalog(c, s.roots())
}

// noteSchema finds out whether the catalog tells the schema's rows as the file has them now: a replay makes the same objects,
// but may make them in another order, and on other pages.
func (w *writer) noteSchema() error {
	s, err := readSchema(w.session)
	if err != nil {
		return err
	}
	w.misstated = w.catalog.Version > 0 && !slices.Equal(s.rows, w.catalog.Schema)
	return nil
}

// restate commits the catalog anew with the schema's rows as the file has them: what a region says of sqlite_schema is what
// the primary says. Where that fails the region is not wrong for long: it is tried again after the next commit.
func (w *writer) restate() {
	if !w.misstated || w.db.Problem() != nil {
		return
	}
	r := &request{
		ctx: context.Background(), tx: &Transaction{Operations: []Operation{restateOperation{}}}, alone: true, done: make(chan outcome, 1),
	}
	w.misstated = false
	for rest := []*request{r}; len(rest) > 0; {
		rest = w.group(rest)
	}
	if err := (<-r.done).err; err != nil {
		w.misstated = true
		w.db.logger.Warn("the schema's rows are not told to regions yet", slog.Any("error", err))
	}
}

// restateOperation has the schema read again, and changes nothing.
type restateOperation struct{}

func (restateOperation) run(x *execution) (*datav1.ResultSet, error) {
	x.unsettled = true
	return &datav1.ResultSet{}, nil
}

// storedCatalog reads the catalog that the file holds.
func storedCatalog(s *session) (c *catalog.Catalog, err error) {
	c = &catalog.Catalog{}
	err = s.rows("SELECT catalog FROM main."+catalogTable, nil, func(st *sqlite.Stmt) error {
		var p replicationv1.Catalog
		if err := proto.Unmarshal(st.Column(0).Bytes(), &p); err != nil {
			return fmt.Errorf("%w: %s: %w", changelog.ErrCorrupt, catalogTable, err)
		}
		c, err = catalog.FromProto(&p)
		return err
	})
	return c, err
}

// useCatalog makes a catalog the present one.
func (w *writer) useCatalog(c *catalog.Catalog, roots map[string]int64) error {
	tables := make(map[string]*access, len(c.Tables))
	for _, t := range c.Tables {
		a, err := newAccess(t)
		if err != nil {
			return err
		}
		tables[catalog.Fold(t.Name)] = a
	}
	w.catalog, w.tables, w.roots = c, tables, roots
	return nil
}

func (w *writer) loadSequences() error {
	w.sequences = make(map[uint32]int64)
	exists := false
	err := w.rows("SELECT 1 FROM main.sqlite_schema WHERE name = 'sqlite_sequence'", nil, func(*sqlite.Stmt) error {
		exists = true
		return nil
	})
	if err != nil || !exists {
		return err
	}
	return w.rows("SELECT name, seq FROM main.sqlite_sequence", nil, func(st *sqlite.Stmt) error {
		if t := w.catalog.TableByName(st.Column(0).Text()); t != nil {
			w.sequences[t.ID] = st.ColumnInt64(1)
		}
		return nil
	})
}

// replayChunkBytes is how much of the log one SQLite transaction of a replay takes.
const replayChunkBytes = 8 << 20

// replayLog applies the records that the file lacks. Triggers, foreign keys and checks are off: records are final states.
func (w *writer) replayLog(at changelog.Head) (err error) {
	if err := w.replayMode(true); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.replayMode(false)) }()
	for at.Version < w.head.Version {
		records, err := w.log.ReadAppended(w.id, at.Version, replayChunkBytes)
		if err != nil {
			return err
		}
		if len(records) == 0 {
			return fmt.Errorf("%w: no record after version %d", changelog.ErrCorrupt, at.Version)
		}
		if at, err = w.replayChunk(at, records); err != nil {
			if !w.conn.Autocommit() {
				err = errors.Join(err, w.run("ROLLBACK"))
			}
			return err
		}
	}
	return nil
}

func (w *writer) replayMode(on bool) error {
	ignore := "PRAGMA ignore_check_constraints = OFF"
	if on {
		ignore = "PRAGMA ignore_check_constraints = ON"
	}
	return errors.Join(w.conn.EnableForeignKeys(!on), w.conn.EnableTriggers(!on), w.conn.Defensive(!on), w.run(ignore))
}

func (w *writer) replayChunk(at changelog.Head, records [][]byte) (changelog.Head, error) {
	if err := w.run("BEGIN IMMEDIATE"); err != nil {
		return at, err
	}
	var changed *catalog.Catalog
	for _, record := range records {
		var r replicationv1.CommitRecord
		if err := proto.Unmarshal(record, &r); err != nil {
			return at, fmt.Errorf("%w: record of version %d: %w", changelog.ErrCorrupt, at.Version+1, err)
		}
		if r.GetVersion() != at.Version+1 || changelog.Checksum(r.GetPreviousChecksum()) != at.Checksum {
			return at, fmt.Errorf("%w: record %d does not follow version %d", changelog.ErrCorrupt, r.GetVersion(), at.Version)
		}
		if err := w.replayRecord(&r); err != nil {
			return at, fmt.Errorf("version %d: %w", r.GetVersion(), err)
		}
		if r.GetCatalog() != nil {
			changed = w.catalog
		}
		at = changelog.Head{Epoch: r.GetEpoch(), Version: r.GetVersion(), Checksum: changelog.ChecksumOf(record)}
	}
	if err := w.saveHead(at, changed); err != nil {
		return at, err
	}
	return at, w.run("COMMIT")
}

func (w *writer) replayRecord(r *replicationv1.CommitRecord) error {
	if r.GetCatalog() != nil {
		next, err := catalog.FromProto(r.GetCatalog())
		if err != nil {
			return err
		}
		if err := w.replaySchema(next); err != nil {
			return fmt.Errorf("schema: %w", err)
		}
	}
	sequences := make(map[uint32]*int64, len(r.GetSequences()))
	for _, s := range r.GetSequences() {
		if w.catalog.TableByID(s.GetTableId()) == nil {
			return fmt.Errorf("%w: sequence of table %d", changelog.ErrCorrupt, s.GetTableId())
		}
		sequences[s.GetTableId()] = s.Value
	}
	for _, t := range r.GetTables() {
		table := w.catalog.TableByID(t.GetTableId())
		if table == nil {
			return fmt.Errorf("%w: unknown table %d", changelog.ErrCorrupt, t.GetTableId())
		}
		if _, told := sequences[table.ID]; table.Autoincrement && !told {
			// Inserting rows moves it, whatever it was that made them: an UPDATE of a rowid does not.
			var err error
			if sequences[table.ID], err = w.readSequence(table.Name); err != nil {
				return err
			}
		}
		if err := w.replayTable(table, t); err != nil {
			return fmt.Errorf("table %s: %w", table.Name, err)
		}
	}
	for id, seq := range sequences {
		if err := w.writeSequence(w.catalog.TableByID(id).Name, seq); err != nil {
			return err
		}
	}
	return nil
}

// readSequence returns a table's entry in sqlite_sequence, nil if it has none.
func (w *writer) readSequence(table string) (seq *int64, err error) {
	err = w.rows("SELECT seq FROM main.sqlite_sequence WHERE name = ?1", []value.Value{value.Text(table)},
		func(st *sqlite.Stmt) error {
			n := st.ColumnInt64(0)
			seq = &n
			return nil
		})
	return seq, err
}

func (w *writer) writeSequence(table string, seq *int64) error {
	if err := w.run("DELETE FROM main.sqlite_sequence WHERE name = ?1", value.Text(table)); err != nil || seq == nil {
		return err
	}
	return w.run("INSERT INTO main.sqlite_sequence (name, seq) VALUES (?1, ?2)", value.Text(table), value.Integer(*seq))
}

// replayTable brings rows to their final state: all deletes before all inserts, so that no order of unique values matters.
func (w *writer) replayTable(table *catalog.Table, t *replicationv1.TableChange) error {
	if t.GetReplaced() {
		return ErrRowsNotLogged
	}
	a := w.tables[catalog.Fold(table.Name)]
	for _, r := range t.GetRows() {
		key, err := a.keyFromBytes(r.GetKey())
		if err != nil {
			return err
		}
		if err := w.run(a.deleteOne, key...); err != nil {
			return err
		}
	}
	for _, r := range t.GetRows() {
		if r.Value == nil {
			continue
		}
		row, err := decodeRow(table, r)
		if err != nil {
			return err
		}
		if err := a.write(w.session, row); err != nil {
			return err
		}
	}
	return nil
}
