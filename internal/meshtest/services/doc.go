// Package services tests services that others run, registered with a mesh while it runs.
package services
