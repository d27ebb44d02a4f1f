// Package watch tells callers what changes in a table, from the log's tail that a region's replica keeps.
//
// Each watched database has one feed: a goroutine that reads its records once, keeps the newest in memory and prepares the
// changes of watched tables as they go over the wire, for all watchers alike. A watcher has a position of its own and pulls
// from there: from the feed's memory, or from the tail on the disk where it is behind that. So nobody waits for a slow one, and
// it costs nothing but its reads; where the tail has passed it, it is told so and never goes on as if nothing had been
// missed. One that waits is woken only for what it watches.
package watch
