package verify

import (
	"encoding/hex"
	"strconv"
	"strings"

	controlv1 "github.com/nearside-dev/nearside/gen/nearside/control/v1"
	"github.com/nearside-dev/nearside/internal/catalog"
	"github.com/nearside-dev/nearside/internal/rowcodec"
	"github.com/nearside-dev/nearside/internal/value"
)

// Bounds of what is reported of one database.
const (
	maxFindings  = 1000
	maxKeys      = 5   // of one finding
	maxTextBytes = 200 // of one key
)

// Place is where something differs. Table and Index may be nil.
type Place struct {
	Table *catalog.Table
	Index *catalog.Index
}

func (p Place) names() (table, index string) {
	if p.Table != nil {
		table = p.Table.Name
	}
	if p.Index != nil {
		index = p.Index.Name
	}
	return table, index
}

// Findings collects what differs in one database. The zero value has none. It is for one goroutine.
type Findings struct {
	list  []*controlv1.Finding
	known map[findingKey]*controlv1.Finding
}

type findingKey struct {
	kind         controlv1.FindingKind
	table, index string
}

// Key adds a difference of one row or entry; key is its key's bytes.
func (f *Findings) Key(kind controlv1.FindingKind, at Place, key []byte) {
	x := f.find(kind, at)
	if x == nil {
		return
	}
	x.Count++
	if len(x.Keys) < maxKeys {
		x.Keys = append(x.Keys, KeyText(at, key))
	}
}

// Detail adds a difference that is no single row's.
func (f *Findings) Detail(kind controlv1.FindingKind, at Place, detail string) {
	if x := f.find(kind, at); x != nil {
		x.Count++
		x.Detail = detail
	}
}

// find returns the finding of a kind and place; nil where there are too many.
func (f *Findings) find(kind controlv1.FindingKind, at Place) *controlv1.Finding {
	k := findingKey{kind: kind}
	k.table, k.index = at.names()
	x := f.known[k]
	if x == nil && len(f.list) < maxFindings {
		if f.known == nil {
			f.known = make(map[findingKey]*controlv1.Finding)
		}
		x = &controlv1.Finding{Kind: kind, Table: k.table, Index: k.index}
		f.known[k] = x
		f.list = append(f.list, x)
	}
	return x
}

// List returns the findings in the order in which they were first met.
func (f *Findings) List() []*controlv1.Finding { return f.list }

// KeyText writes a row's or an index entry's key as SQL values; what is no such key is "hex:" and its bytes. Long ones are
// cut.
func KeyText(at Place, key []byte) string {
	var parts []catalog.KeyPart
	if at.Index != nil {
		parts = append(parts, at.Index.Parts...)
	}
	if at.Table != nil {
		parts = append(parts, at.Table.KeyColumns()...)
	}
	texts := make([]string, 0, len(parts))
	rest := key
	for _, part := range parts {
		v, after, err := rowcodec.DecodeKeyValue(rest, part.Desc)
		if err != nil {
			return undecoded(key)
		}
		texts = append(texts, literal(v))
		rest = after
	}
	if len(rest) > 0 || len(parts) == 0 {
		return undecoded(key)
	}
	return cut(strings.Join(texts, ", "))
}

func undecoded(key []byte) string {
	return cut("hex:" + hex.EncodeToString(key[:min(len(key), maxTextBytes)]))
}

func cut(s string) string {
	if len(s) <= maxTextBytes {
		return s
	}
	return strings.ToValidUTF8(s[:maxTextBytes], "") + "…"
}

func literal(v value.Value) string {
	switch v.Kind() {
	case value.KindInteger:
		return strconv.FormatInt(v.Integer(), 10)
	case value.KindReal:
		return strconv.FormatFloat(v.Real(), 'g', -1, 64)
	case value.KindText:
		return "'" + strings.ReplaceAll(strings.ToValidUTF8(string(v.Bytes()), "\ufffd"), "'", "''") + "'"
	case value.KindBlob:
		return "x'" + hex.EncodeToString(v.Bytes()[:min(len(v.Bytes()), maxTextBytes)]) + "'"
	default:
		return "NULL"
	}
}

// KindName is a finding's kind in words: "row missing".
func KindName(kind controlv1.FindingKind) string {
	name := strings.TrimPrefix(kind.String(), "FINDING_KIND_")
	return strings.ToLower(strings.ReplaceAll(name, "_", " "))
}
