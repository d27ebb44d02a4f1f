// Package matrix calls services in every way in which a gateway can be called: protocol × codec × compression × version of HTTP × kind
// of call, for services of the mesh and for registered ones, which speak all protocols or gRPC alone. Whatever the way, answers, errors
// with their details, headers and trailers are the same. What a protocol forbids is in a table, with the reason.
package matrix
