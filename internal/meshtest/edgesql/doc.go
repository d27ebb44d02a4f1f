// Package edgesql holds the tests that compare what a region answers to SQL itself with what the primary answers.
package edgesql
