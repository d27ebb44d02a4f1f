// Package audit is what is recorded of who did what: the entries, how each is bound to the one before it by a hash, and the
// Recorder that collects them without holding up those who are recorded. Where entries are kept is others' business:
// services/audit at the primary, sidecar/spool in a region until the primary has them.
package audit
