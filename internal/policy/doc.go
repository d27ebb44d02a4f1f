// Package policy is the mesh's side of Cedar: it reads policies, checks them against the schema of callers, methods, databases
// and tables, and answers what a set of them says of one question. It knows no roles and keeps no answers: package access does.
//
// Policies are small texts of one statement each, and a Set is all of them at one state of _mesh. What it says depends on
// nothing but the question, so that an answer may be kept as long as the set is the same.
package policy
