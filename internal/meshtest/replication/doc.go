// Package replication holds the tests of both ends of a replication stream: the primary's service over a real commit log and
// the sidecar's follower with its store, on a loopback connection. Neither end may import the other.
package replication
