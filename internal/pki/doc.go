// Package pki is how the nodes of a mesh know each other: the mesh's own certificate authority, the names and certificates that
// it gives to nodes, the tokens with which a node joins, and the TLS that nodes speak.
//
// A node is named by a SPIFFE id, spiffe://MESH/region/REGION/ROLE, in its certificate's only URI, and told from earlier nodes of
// the same region by a node id, the subject's common name. Certificates live for a day and are replaced while connections stay.
// Nothing here decides what a node may do: see packages nodeaccess and identity.
package pki
