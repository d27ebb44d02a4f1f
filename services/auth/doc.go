// Package auth is the part of authentication that only the primary has: it keeps accounts, makes credentials and ends them.
// Password hashes, refresh tokens and private signing keys are rows of _auth, which no region holds and no caller's request
// finds; what regions need to verify callers by themselves are rows of _mesh, which package access reads.
package auth
