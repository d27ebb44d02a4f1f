// Command nearside is the whole of Nearside in one binary: the roles of a mesh (up, primary, sidecar) and the commands that
// talk to one.
//
// Package internal/cli finds the command and its settings; this package adds the roles, which it alone may assemble.
package main

import (
	"context"
	"os"

	"github.com/nearside-dev/nearside/internal/cli"
)

func main() {
	os.Exit(cli.Main(context.Background(), cli.OS(), os.Args[1:], upCommand, primaryCommand, sidecarCommand,
		sqllogictestCommand))
}
