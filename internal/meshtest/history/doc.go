// Package history holds the test that random histories of schema and data are the same at the primary, in a replica that
// followed from the first record, and in one that began with a snapshot: at every version.
package history
