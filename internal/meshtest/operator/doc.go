// Package operator tests what the commands for operators say of a mesh that something is being done to.
package operator
