// Package snapshot holds the tests of snapshots, of the trimming of logs and of the repair of tables: a real primary, and a
// region's store and follower, on loopback connections.
package snapshot
