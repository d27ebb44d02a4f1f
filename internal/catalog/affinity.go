package catalog

import (
	"strconv"
	"strings"

	"github.com/nearside-dev/nearside/internal/value"
)

// AffinityOf returns the affinity that SQLite gives a column of the declared type; an empty type has BLOB affinity. A
// column declared ANY in a STRICT table is the exception the caller has to know: it has BLOB affinity.
func AffinityOf(declaredType string) Affinity {
	t := Fold(declaredType)
	has := func(words ...string) bool {
		for _, w := range words {
			if strings.Contains(t, w) {
				return true
			}
		}
		return false
	}
	switch {
	case has("int"):
		return AffinityInteger
	case has("char", "clob", "text"):
		return AffinityText
	case t == "" || has("blob"):
		return AffinityBlob
	case has("real", "floa", "doub"):
		return AffinityReal
	default:
		return AffinityNumeric
	}
}

// Apply returns v as SQLite stores it in a column of affinity a. Values that need no conversion share v's bytes.
func (a Affinity) Apply(v value.Value) value.Value {
	switch a {
	case AffinityText:
		switch v.Kind() {
		case value.KindInteger:
			return value.TextBytes(strconv.AppendInt(nil, v.Integer(), 10))
		case value.KindReal:
			return value.TextBytes(value.AppendReal(nil, v.Real()))
		default:
			return v
		}
	case AffinityNumeric, AffinityInteger:
		return value.Numeric(v)
	case AffinityReal:
		n := value.Numeric(v)
		if n.Kind() == value.KindInteger {
			return value.Real(float64(n.Integer()))
		}
		return n
	default:
		return v
	}
}

// Exact reports whether Apply(v) may stand for v in a comparison with a column of affinity a. It is false only for an
// integer beyond 2^53 that a REAL column would round: stored it is rounded, compared it is not.
func (a Affinity) Exact(v value.Value) bool {
	if a != AffinityReal {
		return true
	}
	n := value.Numeric(v)
	if n.Kind() != value.KindInteger {
		return true
	}
	f := float64(n.Integer())
	return f < 1<<63 && int64(f) == n.Integer()
}
