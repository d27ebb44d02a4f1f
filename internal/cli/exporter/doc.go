// Package exporter writes an exported database as an SQL dump, or its tables as CSV or JSON lines, a piece at a time: what it
// holds in memory does not grow with the database.
package exporter
