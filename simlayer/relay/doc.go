// Package relay passes a caller's bytes on to a node and the node's back, and
// follows their framing only so far as to know each call: when it begins, when it
// has ended, and so when the node may be replaced.
//
// [Conn] is the core of a caller's connection of HTTP/1.1. It has no clock, network,
// goroutine or lock: events go in ([Conn.Ready], [Conn.Begin], [Conn.Answer],
// [Conn.NodeEnded], …), and what is to be done comes out ([Do], [Part]). Where it
// stands is one [Phase], and which may follow which is one table. The scripts in
// testdata show it at work. Its driver owns the sockets, calls it with one event at a
// time, and does what it says in the order of [Do]'s fields.
//
// What the core cannot know it is told: whether the gate has let a call in, whether
// the node goes down, whether its address is given up.
package relay
