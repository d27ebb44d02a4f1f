// Package placement tests in whole meshes that regions have nothing of what they may not hold: not on their disks, not in their
// memory; and that callers there get the same answers all the same.
package placement
