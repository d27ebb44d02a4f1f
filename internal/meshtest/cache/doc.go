// Package cache tests the regions' memory in whole meshes: that it answers, that it is never older than a bookmark, and what
// applications keep in it.
package cache
