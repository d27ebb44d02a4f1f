// Package replica keeps a region's copy of the data: one Pebble store for all databases of a sidecar, and the follower that
// fills it from the primary's commit logs.
//
// Writers bring whole groups of commit records (Store.ApplyRecords); a group becomes visible at once or not at all. Readers
// take a Snapshot, which is one version of one database with its catalog, rows and indexes, and never see anything else.
// A copy that cannot be vouched for, because it forked, diverged or is not complete yet, refuses to be read and says why
// (Database.Problem): reads of it belong to the primary.
//
// Nothing here answers a query or knows SQL: that is the read path's. DESIGN.md beside this file has the key layout and the
// order of things in a commit.
package replica
