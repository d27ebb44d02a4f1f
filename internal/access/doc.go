// Package access decides at a listener who is calling and what they may do, from rows of _mesh alone: a region does so
// without a call to anybody, also while the primary is gone.
//
//   - A Verifier turns the header Authorization into an identity.Principal: an access token, of which it checks signature and
//     claims once, or an API key. What it has verified it keeps until the rows change, the token ends or others need the place.
//   - An Authorizer says whether a principal may do something. Roles is the one for the rows of account_roles.
//   - Limits are token buckets.
//   - A Chain is all of that before a listener's handlers, and a Guard what is left to do where the message is known.
//
// Nothing here makes credentials: that is services/auth, at the primary.
package access
