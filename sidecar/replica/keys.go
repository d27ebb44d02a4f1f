package replica

import (
	"encoding/binary"
	"math"
)

// The key space; DESIGN.md has the whole layout. Numbers are big-endian, so that keys sort by them. Every key begins with a
// database id, so that one range is one database; id 0 is the store's own.
const (
	spaceState   = 's' // → applied
	spaceCatalog = 'c' // → wire form of the catalog
	spaceSum     = 't' // table → tableSum
	spaceTail    = 'l' // version → commit record
	spaceOld     = 'o' // version → the rows that this record of the tail replaced, as they were
	spaceData    = 'g' // generation, table, index or 0 for rows, key → row value, or nothing for an index entry
	spaceBuild   = 'b' // → build
	spaceNext    = 'n' // → wire form of the build's catalog
	spaceMeta    = 'm' // of database 0: name → value
)

// rowsIndex stands where an index's id does, in the keys of rows. No index has it: ids begin at 1.
const rowsIndex = 0

// dataPrefixSize is the length of what precedes a row's or an index entry's own key.
const dataPrefixSize = 4 + 1 + 4 + 4 + 4

func appendSpace(dst []byte, database uint32, space byte) []byte {
	return append(binary.BigEndian.AppendUint32(dst, database), space)
}

// databaseRange bounds all keys of a database.
func databaseRange(database uint32) (lower, upper []byte) {
	lower = binary.BigEndian.AppendUint32(nil, database)
	if database == math.MaxUint32 {
		return lower, []byte{0xff, 0xff, 0xff, 0xff, 0xff}
	}
	return lower, binary.BigEndian.AppendUint32(nil, database+1)
}

func stateKey(database uint32) []byte   { return appendSpace(nil, database, spaceState) }
func buildKey(database uint32) []byte   { return appendSpace(nil, database, spaceBuild) }
func nextKey(database uint32) []byte    { return appendSpace(nil, database, spaceNext) }
func catalogKey(database uint32) []byte { return appendSpace(nil, database, spaceCatalog) }

func sumKey(database, table uint32) []byte {
	return binary.BigEndian.AppendUint32(appendSpace(nil, database, spaceSum), table)
}

func tailKey(database uint32, version uint64) []byte {
	return binary.BigEndian.AppendUint64(appendSpace(nil, database, spaceTail), version)
}

func oldKey(database uint32, version uint64) []byte {
	return binary.BigEndian.AppendUint64(appendSpace(nil, database, spaceOld), version)
}

func metaKey(name string) []byte { return append(appendSpace(nil, 0, spaceMeta), name...) }

// spaceRange bounds one space of a database.
func spaceRange(database uint32, space byte) (lower, upper []byte) {
	return appendSpace(nil, database, space), appendSpace(nil, database, space+1)
}

func appendGeneration(dst []byte, database, generation uint32) []byte {
	return binary.BigEndian.AppendUint32(appendSpace(dst, database, spaceData), generation)
}

// generationRange bounds the keys of the generations from lower on and before upper.
func generationRange(database, lower, upper uint32) (from, to []byte) {
	return appendGeneration(nil, database, lower), appendGeneration(nil, database, upper)
}

// appendDataPrefix appends what the keys of a table's rows (index rowsIndex) or of an index's entries begin with.
func appendDataPrefix(dst []byte, database, generation, table, index uint32) []byte {
	dst = appendGeneration(dst, database, generation)
	dst = binary.BigEndian.AppendUint32(dst, table)
	return binary.BigEndian.AppendUint32(dst, index)
}

// prefixEnd returns the least key greater than all keys that begin with prefix; nil if there is none.
func prefixEnd(prefix []byte) []byte {
	for i := len(prefix) - 1; i >= 0; i-- {
		if prefix[i] != 0xff {
			end := append([]byte(nil), prefix[:i+1]...)
			end[i]++
			return end
		}
	}
	return nil
}

// tableRange bounds the rows and the index entries of a table.
func tableRange(database, generation, table uint32) (lower, upper []byte) {
	lower = binary.BigEndian.AppendUint32(appendGeneration(nil, database, generation), table)
	return lower, prefixEnd(lower)
}

// indexRange bounds the entries of an index, or the rows.
func indexRange(database, generation, table, index uint32) (lower, upper []byte) {
	lower = appendDataPrefix(nil, database, generation, table, index)
	return lower, prefixEnd(lower)
}
