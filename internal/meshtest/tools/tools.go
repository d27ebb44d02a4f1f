// Package tools finds the tools that people call services with, buf curl and ghz among them, and has tests of a mesh with them.
package tools

import (
	"os"
	"os/exec"
	"path/filepath"
)

// Find returns a tool's path: of the one that is built into .tmp/bin, with or without its version in its name, or else of the machine's.
func Find(name string) (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for ; ; dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil || dir == filepath.Dir(dir) {
			break
		}
	}
	for _, pattern := range []string{name, name + "-v*"} {
		if paths, _ := filepath.Glob(filepath.Join(dir, ".tmp", "bin", pattern)); len(paths) > 0 { // the pattern is right
			return paths[len(paths)-1], nil
		}
	}
	return exec.LookPath(name)
}
