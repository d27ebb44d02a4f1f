package engine

import (
	"google.golang.org/protobuf/proto"

	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/internal/catalog"
	"github.com/nearside-dev/nearside/internal/rpcerr"
)

// schemaState is a schema as the writer uses it.
type schemaState struct {
	catalog *catalog.Catalog
	tables  map[string]*access // by lower-case name
	roots   map[string]int64
}

// settle brings the writer's schema to what the transaction has made of it so far, so that the rows that it changes from here
// on are known for what they are. It is called around every statement that alters or drops a table, did being what that
// statement was: of one statement alone it is certain which tables kept their rows.
//
// What is settled is undone with the transaction (unsettle).
func (x *execution) settle(did footprint) error {
	w := x.w
	s, err := readSchema(w.session)
	if err != nil {
		return err
	}
	if err := refuseInternalParents(w.session); err != nil {
		return err
	}
	d, err := s.derive(w.catalog, w.roots, did, w.session)
	if err != nil {
		return err
	}
	next := d.catalog
	if size := proto.Size(next.ToProto()); size > maxCatalogBytes {
		return rpcerr.New(datav1.ErrorReason_ERROR_REASON_TRANSACTION_TOO_LARGE,
			"the schema takes %d bytes, the limit is %d", size, maxCatalogBytes).
			With("bytes", itoa(size)).With("limit", itoa(maxCatalogBytes))
	}
	if x.before == nil {
		x.before = &schemaState{catalog: w.catalog, tables: w.tables, roots: w.roots}
	}
	if err := w.db.checkNames(x.before.catalog, next); err != nil {
		return err
	}
	if err := w.useCatalog(next, s.roots()); err != nil {
		return err
	}
	w.capture.remade(d)
	if err := w.capture.rename(next, w.tables); err != nil {
		return err
	}
	x.unsettled = false
	return nil
}

// checkNames asks whether the tables that were there before the transaction may have the names that they have now. One that the
// transaction made may be given any: nobody holds it yet.
func (db *DB) checkNames(before, now *catalog.Catalog) error {
	if db.rename == nil {
		return nil
	}
	for _, t := range now.Tables {
		if old := before.TableByID(t.ID); old != nil && old.Name != t.Name {
			if err := db.rename(old.Name, t.Name); err != nil {
				return err
			}
		}
	}
	return nil
}

// unsettle gives the writer back the schema from before the transaction.
func (x *execution) unsettle() {
	if b := x.before; b != nil {
		x.w.catalog, x.w.tables, x.w.roots = b.catalog, b.tables, b.roots
	}
}
