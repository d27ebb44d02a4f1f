// Package auditlog is the primary's audit: the chain of all entries, rows of _audit, which no region holds and no caller's
// request finds. It takes the primary's own entries and what regions deliver, shows them to admins, and finds what was changed
// behind its back.
package auditlog
