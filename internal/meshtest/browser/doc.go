// Package browser has the tests of what a gateway does for browsers, through a whole mesh.
package browser
