// Package rest answers REST calls at a gateway: /v1/… as the google.api.http rules of its services' protos say, and the OpenAPI
// document of that at /openapi.json, with a page to read it by at /docs.
//
// Vanguard turns a request into the call that its rule names, and that goes the way of every other call: authentication, limits
// and authorisation come after it and see a procedure. What HTTP has and calls have not is done here, around it: entity tags and
// conditional requests, Location and Link, parts of an answer, HEAD and OPTIONS, and errors as problem documents (RFC 9457).
package rest
