// Package edgesql answers SELECTs in a region: SQLite over read-only virtual tables whose rows are those of one snapshot of
// the replica. DESIGN.md says how, and why an answer equals the primary's.
//
// It stands in the read path between what is answered by key and the primary. What it cannot answer to the letter it refuses
// with UnsupportedError, and the primary is to be asked. It never writes, and reads nothing but its snapshot.
package edgesql
