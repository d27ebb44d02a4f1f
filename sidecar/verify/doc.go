// Package verify compares a region's copies with the primary while both are read and written, and answers VerifyService at
// the region's gateway. Nothing stops for it, and it finds no difference where there is none: DESIGN.md beside this file has
// the algorithm.
package verify
