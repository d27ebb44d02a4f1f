package sqlite

import (
	"unsafe"

	sqlite3 "modernc.org/sqlite/lib"
)

// termExpr returns the expression of a term of a WHERE clause, or 0.
func termExpr(clause uintptr, at int) uintptr {
	for clause != 0 {
		wc := (*sqlite3.TWhereClause)(ptr(clause))
		if at < int(wc.FnTerm) {
			return (*sqlite3.TWhereTerm)(ptr(wc.Fa + uintptr(at)*unsafe.Sizeof(sqlite3.TWhereTerm{}))).FpExpr
		}
		at -= int(wc.FnTerm)
		clause = wc.FpOuter
	}
	return 0
}

// comparison returns how a comparison converts its sides, by the rules of https://sqlite.org/datatype3.html#comparison: one
// side's affinity applies to the other if that has none, and numeric affinity of either applies to both.
func comparison(expr uintptr) Conversion {
	e := (*sqlite3.TExpr)(ptr(expr))
	if e.FpLeft == 0 || (*sqlite3.TExpr)(ptr(e.FpLeft)).Fop == sqlite3.TK_VECTOR {
		return ConvertUnknown
	}
	left, known := exprAffinity(e.FpLeft)
	if !known {
		return ConvertUnknown
	}
	var right int8
	switch {
	case e.FpRight != 0:
		right, known = exprAffinity(e.FpRight)
	case e.Fflags&sqlite3.EP_xIsSelect != 0:
		right, known = selectAffinity(e.Fx.FpList, 0)
	}
	switch {
	case left >= sqlite3.SQLITE_AFF_NUMERIC:
		return ConvertNumeric
	case !known:
		return ConvertUnknown
	case right >= sqlite3.SQLITE_AFF_NUMERIC:
		return ConvertNumeric
	case left > sqlite3.SQLITE_AFF_NONE && right > sqlite3.SQLITE_AFF_NONE:
		return ConvertNothing // of TEXT and BLOB columns
	case left == sqlite3.SQLITE_AFF_TEXT || right == sqlite3.SQLITE_AFF_TEXT:
		return ConvertText
	default:
		return ConvertNothing
	}
}

// exprAffinity returns an expression's affinity as sqlite3_expr_affinity would; known is false for what is not worth
// following.
func exprAffinity(expr uintptr) (affinity int8, known bool) {
	for range 100 {
		e := (*sqlite3.TExpr)(ptr(expr))
		op := e.Fop
		if op == sqlite3.TK_REGISTER {
			op = e.Fop2
		}
		switch {
		case op == sqlite3.TK_COLUMN, op == sqlite3.TK_AGG_COLUMN && e.Fy.FpTab != 0:
			return columnAffinity(e.Fy.FpTab, int(e.FiColumn))
		case op == sqlite3.TK_SELECT:
			return selectAffinity(e.Fx.FpList, 0)
		case op == sqlite3.TK_SELECT_COLUMN, op == sqlite3.TK_CAST, op == sqlite3.TK_VECTOR,
			op == sqlite3.TK_FUNCTION && e.FaffExpr != 0:
			return 0, false
		case e.Fflags&(sqlite3.EP_Skip|sqlite3.EP_IfNullRow) != 0:
			expr = e.FpLeft
		default:
			return e.FaffExpr, true
		}
	}
	return 0, false
}

func columnAffinity(table uintptr, column int) (affinity int8, known bool) {
	if table == 0 {
		return 0, false
	}
	t := (*sqlite3.TTable)(ptr(table))
	if column < 0 {
		return sqlite3.SQLITE_AFF_INTEGER, true // the rowid
	}
	if column >= int(t.FnCol) || t.FaCol == 0 {
		return 0, false
	}
	return (*sqlite3.TColumn)(ptr(t.FaCol + uintptr(column)*unsafe.Sizeof(sqlite3.TColumn{}))).Faffinity, true
}

// listHeadSize precedes the elements of an ExprList and of a SrcList.
const listHeadSize = 8

func selectAffinity(p uintptr, column int) (affinity int8, known bool) {
	list := (*sqlite3.TSelect)(ptr(p)).FpEList
	if list == 0 || column >= int((*sqlite3.TExprList)(ptr(list)).FnExpr) {
		return 0, false
	}
	item := ptr(list + listHeadSize + uintptr(column)*unsafe.Sizeof(sqlite3.TExprList_item{}))
	return exprAffinity((*sqlite3.TExprList_item)(item).FpExpr)
}
