// Package rest has the tests of REST through a whole mesh.
package rest
