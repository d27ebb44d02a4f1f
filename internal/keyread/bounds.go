package keyread

import (
	"bytes"
	"slices"

	"github.com/nearside-dev/nearside/internal/catalog"
	"github.com/nearside-dev/nearside/internal/rowcodec"
	"github.com/nearside-dev/nearside/internal/value"
)

// AppendKey appends the encoded key of the row, or what the key of its index entry begins with, and returns the extended
// buffer.
func (p *GetPlan) AppendKey(dst []byte) []byte {
	return appendParts(dst, p.Parts, p.Values)
}

// Bounds returns the encoded keys, of rows or of index entries, between which the page's rows are, whichever way it goes:
// lower is included, upper is not and nil is none. Where nothing can be between, they are equal.
func (p *ListPlan) Bounds() (lower, upper []byte) {
	n := len(p.Prefix)
	prefix := appendParts(nil, p.Order, p.Prefix)
	prefix = slices.Clip(prefix) // the appends below must not share its spare room

	lower, upper = prefix, after(prefix)
	if p.Start != nil {
		lower = appendParts(prefix, p.Order[n:], p.Start)
		if p.StartExclusive {
			lower = after(lower)
		}
	}
	if p.End != nil {
		upper = appendParts(prefix, p.Order[n:], p.End)
		if !p.EndExclusive {
			upper = after(upper)
		}
	}
	if p.After != nil {
		last := appendParts(nil, p.Order, p.After[:len(p.Order)])
		last = appendParts(last, p.Tie, p.After[len(p.Order):])
		if p.Reverse {
			if upper == nil || bytes.Compare(last, upper) < 0 {
				upper = last
			}
		} else if next := after(last); bytes.Compare(next, lower) > 0 {
			lower = next
		}
	}
	if upper != nil && bytes.Compare(lower, upper) > 0 {
		upper = lower
	}
	return lower, upper
}

func appendParts(dst []byte, parts []catalog.KeyPart, values []value.Value) []byte {
	for i, v := range values {
		dst = rowcodec.AppendKeyValue(dst, v, parts[i].Collation, parts[i].Desc)
	}
	return dst
}

// after returns the first key after all that begin with key; nil, which is none, if key is empty. No encoded key begins
// with 0xff, so that there always is one.
func after(key []byte) []byte {
	next := bytes.Clone(key)
	for i := len(next) - 1; i >= 0; i-- {
		if next[i]++; next[i] != 0 {
			return next[:i+1]
		}
	}
	return nil
}
