// Package cli is the command line: it finds a command's settings, calls the mesh as any client does, and shows the answer
// to a person or, with --json, to a program.
//
// Exit codes: 0 done, 1 the operation failed and a message is on standard error, 2 wrong usage, which includes a command
// that there is not.
package cli
