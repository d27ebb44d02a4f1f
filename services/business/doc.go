// Package business is the reference domain: users and their orders.
//
// Its handlers reach data only through the gateway of their region, with the generated client: reads by key are answered
// by the region's replica, writes go on to the primary. A call's bookmarks go with its inner calls and theirs come back
// with its answer (client.Propagate), so a user created in one region is found in another by whoever has the bookmark.
//
// Every write is one transaction, and under an idempotency key everything in it follows from the key and the request: ids
// are a hash of both, times are taken by the primary. So a repeat is the same request to the data API, which answers it
// from memory; and where only "done" is remembered, or not even that, the id finds what the first call made.
package business
