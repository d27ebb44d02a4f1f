// Package server is what every listener of the mesh shares: who may reach it, HTTP/1.1 and HTTP/2 without TLS, limits on
// connections, headers and bodies, health and readiness, the options of all Connect handlers, and a clean end.
package server
