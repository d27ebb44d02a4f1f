// Package requestid names requests: each has an id, which goes into its answer's header, and a place in a trace as W3C Trace Context
// has it (https://www.w3.org/TR/trace-context/). Log lines, calls that are made for it and the audit have both.
//
// A caller may bring either along. What is not well formed is no error: the request gets one of the mesh's own instead.
package requestid
