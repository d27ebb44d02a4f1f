package keyread

import (
	"fmt"

	datav1 "github.com/nearside-dev/nearside/gen/nearside/data/v1"
	"github.com/nearside-dev/nearside/internal/catalog"
	"github.com/nearside-dev/nearside/internal/rpcerr"
	"github.com/nearside-dev/nearside/internal/value"
)

// GetPlan names at most one row.
type GetPlan struct {
	Table *catalog.Table
	// Index is the unique index to look in; nil is the row's key.
	Index *catalog.Index
	// Parts are the columns that Values are compared with, as many of them.
	Parts  []catalog.KeyPart
	Values []value.Value
	// Never says that no row can match: a value is NULL, which equals nothing.
	Never bool
}

// PlanGet plans a Get. Errors are TABLE_NOT_FOUND, INDEX_NOT_FOUND (also for an index that is not unique) and FIELD_INVALID.
func PlanGet(cat *catalog.Catalog, table string, key *datav1.Key) (*GetPlan, error) {
	t, err := Table(cat, table)
	if err != nil {
		return nil, err
	}
	plan, err := planGet(t, key, fieldKey)
	if err != nil {
		return nil, err
	}
	return &plan, nil
}

// PlanBatchGet plans a BatchGet: one plan for each key, in their order, at least one. Errors are those of PlanGet.
func PlanBatchGet(cat *catalog.Catalog, table string, keys []*datav1.Key) ([]GetPlan, error) {
	t, err := Table(cat, table)
	if err != nil {
		return nil, err
	}
	if len(keys) == 0 {
		return nil, rpcerr.InvalidField("keys", "must have a key")
	}
	plans := make([]GetPlan, len(keys))
	for i, key := range keys {
		if plans[i], err = planGet(t, key, fieldKeys(i)); err != nil {
			return nil, err
		}
	}
	return plans, nil
}

// fieldPath is the path of a Key in its request, made only when an error needs it: -1 for "key", else keys[n].
type fieldPath int

const fieldKey = fieldPath(-1)

func fieldKeys(i int) fieldPath { return fieldPath(i) }

func (p fieldPath) values() string {
	if p == fieldKey {
		return "key.values"
	}
	return fmt.Sprintf("keys[%d].values", int(p))
}

func planGet(t *catalog.Table, key *datav1.Key, path fieldPath) (GetPlan, error) {
	plan := GetPlan{Table: t}
	plan.Parts, plan.Index = t.PrimaryKey()
	if name := key.GetIndex(); name != "" {
		plan.Index = t.IndexByName(name)
		if plan.Index == nil {
			return GetPlan{}, indexNotFound(t, name, "no such index")
		}
		if !plan.Index.Unique {
			return GetPlan{}, indexNotFound(t, name, "index is not unique")
		}
		plan.Parts = plan.Index.Parts
	}
	if got, want := len(key.GetValues()), len(plan.Parts); got != want {
		return GetPlan{}, rpcerr.InvalidField(path.values(), "has %d values, the key of %s has %d", got, t.Name, want)
	}
	plan.Values = operands(t, plan.Parts, key.GetValues())
	for i, v := range plan.Values {
		plan.Never = plan.Never || v.IsNull()
		// No rowid is text: somebody takes a column for the key.
		if plan.Parts[i].Column < 0 && v.Kind() > value.KindReal {
			return GetPlan{}, rpcerr.InvalidField(path.values(),
				"rows of %s are identified by their rowid, which is an integer; name a unique index to look elsewhere", t.Name)
		}
	}
	return plan, nil
}
