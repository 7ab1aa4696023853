// Package simlayer is the layer in front of a node: callers reach the node's
// software through it, whatever their version, and never see the node go down.
//
// A [Layer] listens on the public address of every service, and on one more
// address for each version that can be answered. A caller is labelled by the
// address that it reaches; the public address counts as the external version.
// Calls of the node's own version go to its software as they are. Those of other
// versions go through a chain of simulation objects (package so). Where the
// software's address, its version or the objects change, [Layer.Apply] puts a
// whole new [Routing] in place at once, and no listener that is still wanted is
// closed.
//
// # Holding
//
// While the node is down, calls are held: they wait, with nothing of theirs sent
// to the node, and go on under the routing that brings it back up. How long
// (HoldTimeout) and how many (Limits.Held) is bounded; past that a caller of HTTP
// gets 503 with Retry-After, one of raw TCP a reset.
//
// To replace the software without failing a call:
//
//	Drain           holds new calls, waits until those at the node have ended
//	(stop the old software)
//	Apply(Down)     optional: says what will come
//	(start the new software)
//	Apply           releases what is held
//
// A node that crashes is not expected, so calls are caught in it. Those that
// cannot have reached the software, and GET, HEAD, OPTIONS and TRACE, are tried
// again and again until HoldTimeout; the others get 502, since nobody knows
// whether they were carried out.
//
// # Egress
//
// The node's own calls to its peers go through the layer's HTTP proxy
// ([Layer.EgressURL]). A destination that is the public address of a peer's
// service is replaced by that peer's address for this node's version; any other
// passes untouched.
package simlayer
