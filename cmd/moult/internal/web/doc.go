// Package web is a page of the cluster, as one agent sees it, for a browser on this machine.
//
// A [Server] listens on the loopback interface and asks the agent by its local API. The
// address that it gives has a token that is good once, for a cookie; without either nobody is
// answered. It answers to no other name than it has given, and no page but its own. It changes
// nothing, unless it is given [Orders].
//
// One goroutine, the feed, asks the agent again and again, and keeps what it said last with a
// revision for each node and each part. A browser gets all of it once, and from then on what
// has a higher revision than it has: however slowly it reads, nothing piles up for it.
package web
