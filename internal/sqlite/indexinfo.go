package sqlite

import (
	"unsafe"

	"github.com/nearside-dev/nearside/internal/value"
	sqlite3 "modernc.org/sqlite/lib"
)

// IndexInfo is what SQLite wants of a virtual table, and takes the plan. It is valid during BestIndex.
type IndexInfo struct {
	c     *Conn
	p     uintptr
	table uintptr // the description of the table
	raw   *sqlite3.Tsqlite3_index_info
}

// Operator is the operator of a constraint.
type Operator uint8

// The operators. Others exist; a plan leaves their constraints to SQLite.
const (
	OpEQ     Operator = sqlite3.SQLITE_INDEX_CONSTRAINT_EQ
	OpGT     Operator = sqlite3.SQLITE_INDEX_CONSTRAINT_GT
	OpLE     Operator = sqlite3.SQLITE_INDEX_CONSTRAINT_LE
	OpLT     Operator = sqlite3.SQLITE_INDEX_CONSTRAINT_LT
	OpGE     Operator = sqlite3.SQLITE_INDEX_CONSTRAINT_GE
	OpIs     Operator = sqlite3.SQLITE_INDEX_CONSTRAINT_IS
	OpIsNull Operator = sqlite3.SQLITE_INDEX_CONSTRAINT_ISNULL
	OpLimit  Operator = sqlite3.SQLITE_INDEX_CONSTRAINT_LIMIT
	OpOffset Operator = sqlite3.SQLITE_INDEX_CONSTRAINT_OFFSET
)

// Constraint is a term of the WHERE clause: column operator value.
type Constraint struct {
	Column   int // -1 is the rowid
	Operator Operator
	Usable   bool // else the value is not known yet where this plan runs
}

// OrderBy is a term of the order that SQLite would like.
type OrderBy struct {
	Column int // -1 is the rowid; the order is that of the column's own collation
	Desc   bool
}

const (
	constraintSize = 12 // of sqlite3_index_constraint
	orderBySize    = 8
	usageSize      = 8
)

// Constraints returns how many constraints there are.
func (x *IndexInfo) Constraints() int { return int(x.raw.FnConstraint) }

// Constraint returns constraint i.
func (x *IndexInfo) Constraint(i int) Constraint {
	k := load[sqlite3.Tsqlite3_index_constraint](x.raw.FaConstraint + uintptr(i)*constraintSize)
	return Constraint{Column: int(k.FiColumn), Operator: Operator(k.Fop), Usable: k.Fusable != 0}
}

// OrderBys returns how many terms the order has.
func (x *IndexInfo) OrderBys() int { return int(x.raw.FnOrderBy) }

// OrderBy returns term i of the order.
func (x *IndexInfo) OrderBy(i int) OrderBy {
	o := load[sqlite3.Tsqlite3_index_orderby](x.raw.FaOrderBy + uintptr(i)*orderBySize)
	return OrderBy{Column: int(o.FiColumn), Desc: o.Fdesc != 0}
}

// Used reports whether the statement may read a column. The rowid and another name of it are not told of.
func (x *IndexInfo) Used(column int) bool { return x.raw.FcolUsed&(1<<min(column, 63)) != 0 }

// ColumnsUsed returns Used of all columns as bits; the last one is of all columns from 63 on.
func (x *IndexInfo) ColumnsUsed() uint64 { return x.raw.FcolUsed }

// NothingUsed reports whether the statement reads no column but the rowid.
func (x *IndexInfo) NothingUsed() bool { return x.raw.FcolUsed == 0 }

// Collation returns the name of the collation by which constraint i compares text.
func (x *IndexInfo) Collation(i int) string {
	return x.c.names.get(sqlite3.Xsqlite3_vtab_collation(x.c.tls, x.p, int32(i)))
}

// Distinct says how SQLite uses the order: 0 as it is; 1 equal rows must only stand together; 2 and that may be one row for
// them; 3 ordered, and one row for equal ones will do.
func (x *IndexInfo) Distinct() int { return int(sqlite3.Xsqlite3_vtab_distinct(x.c.tls, x.p)) }

// In reports whether constraint i is an IN whose values Filter can have all at once, and with take set asks for that.
func (x *IndexInfo) In(i int, take bool) bool {
	var handle int32 = -1
	if take {
		handle = 1
	}
	return sqlite3.Xsqlite3_vtab_in(x.c.tls, x.p, int32(i), handle) != 0
}

// RHS returns the value of constraint i where it is known already, which shares SQLite's memory during BestIndex.
func (x *IndexInfo) RHS(i int) (v value.Value, ok bool) {
	store[uintptr](x.c.mem+memA, 0)
	if sqlite3.Xsqlite3_vtab_rhs_value(x.c.tls, x.p, int32(i), x.c.mem+memA) != sqlite3.SQLITE_OK {
		return value.Null(), false
	}
	return x.c.viewValue(load[uintptr](x.c.mem + memA)), true
}

// Use gives the value of constraint i to Filter, at a place counted from 0. With omit set SQLite does not check the
// constraint again: the rows fulfil it to the letter.
func (x *IndexInfo) Use(i, place int, omit bool) {
	u := sqlite3.Tsqlite3_index_constraint_usage{FargvIndex: int32(place + 1)}
	if omit {
		u.Fomit = 1
	}
	store(x.raw.FaConstraintUsage+uintptr(i)*usageSize, u)
}

// Plan is what BestIndex answers.
type Plan struct {
	Number  int    // handed to Filter
	Text    string // handed to Filter
	Cost    float64
	Rows    int64
	Ordered bool // the rows come in the order wanted
	Unique  bool // there is one row at most
}

// SetPlan sets the plan.
func (x *IndexInfo) SetPlan(p Plan) error {
	if p.Number < 0 || p.Number > maxPlan {
		return newError(CodeError, "number of a plan out of range", -1)
	}
	x.raw.FidxNum = int32(p.Number)
	x.raw.FestimatedCost, x.raw.FestimatedRows = p.Cost, p.Rows
	if p.Ordered {
		x.raw.ForderByConsumed = 1
	}
	if p.Unique {
		x.raw.FidxFlags |= sqlite3.SQLITE_INDEX_SCAN_UNIQUE
	}
	if p.Text == "" {
		return nil
	}
	if x.raw.FidxStr = x.c.cString(p.Text); x.raw.FidxStr == 0 {
		return newError(CodeNoMem, "out of memory", -1)
	}
	x.raw.FneedToFreeIdxStr = 1
	return nil
}

// NotIndexed reports whether the FROM clause has the table with NOT INDEXED, once at least.
func (x *IndexInfo) NotIndexed() bool {
	const notIndexed = 1
	hidden := (*sqlite3.THiddenIndexInfo)(ptr(x.p + hiddenOffset))
	where := (*sqlite3.TWhereClause)(ptr(hidden.FpWC)).FpWInfo
	list := (*sqlite3.TWhereInfo)(ptr(where)).FpTabList
	for i := range uintptr(load[int32](list)) {
		item := (*sqlite3.TSrcItem)(ptr(list + listHeadSize + i*unsafe.Sizeof(sqlite3.TSrcItem{})))
		if item.FpSTab == x.table && item.Ffg.F__ccgo4&notIndexed != 0 {
			return true
		}
	}
	return false
}

// Conversion says what is done to both sides of a comparison before it is made.
type Conversion uint8

// The conversions.
const (
	ConvertNothing Conversion = iota // neither side is changed
	ConvertText                      // numbers become text
	ConvertNumeric                   // text that is a number becomes one
	ConvertUnknown                   // one of them
)

// hiddenOffset is where SQLite keeps the rest of what it knows, behind an sqlite3_index_info.
const hiddenOffset = 96

// Conversion returns the conversion of constraint i. SQLite's interface does not tell it, and the values in Filter come as
// they were before it: text = 5 looks for '5' where 5 is a constant, for '05' and '5.0' too where it is an INTEGER column.
func (x *IndexInfo) Conversion(i int) Conversion {
	k := load[sqlite3.Tsqlite3_index_constraint](x.raw.FaConstraint + uintptr(i)*constraintSize)
	hidden := (*sqlite3.THiddenIndexInfo)(ptr(x.p + hiddenOffset))
	expr := termExpr(hidden.FpWC, int(k.FiTermOffset))
	if expr == 0 {
		return ConvertUnknown
	}
	return comparison(expr)
}
