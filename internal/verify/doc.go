// Package verify is what the two sides of a check of copies share: the findings and how they are written, the gate that
// bounds how many checks run, the metrics, and the round over the other nodes. The primary's side is services/control, a
// region's is sidecar/verify.
package verify
