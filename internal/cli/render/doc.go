// Package render writes what the command line shows: statement results as lines of JSON or as aligned tables.
package render
