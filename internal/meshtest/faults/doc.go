// Package faults has no code but tests: whole meshes whose links, disks, processes and histories go wrong.
package faults
