// Package calls takes calls from their callers to a node and back.
//
// [Calls] are those of one layer. They come to a [Port] for each version of each service,
// whose connections [Port.Take] serves until they end. A call is let in by the gate under
// one route, which says where it goes, and is counted when it has left.
//
// # Ways
//
// A connection of a raw protocol is one call (raw.go).
//
// One of HTTP is a front's (front.go). What comes by it is judged by its core, a
// relay.Conn; the front does what that says. Its loop (turn.go) takes one request after
// the other; each goes through the gate (exchange.go) and is passed on as it is, as its
// answer is (answer.go), or is simulated in this process (simulation.go and simulate*.go).
// Of HTTP/2 frames pass (frames.go, frames_pass.go).
//
// Calls that are neither go to net/http with their connection (turn.go, handOver;
// proxied.go), which can hold each call, and simulate what the front cannot: calls that
// have chunked bodies, that change their protocol, of HTTP/2, or whose objects are not all
// of the bounded form.
//
// How a call gives way to the next software is each kind's own: see gate.Call.
package calls
