// Package simlayer is the layer in front of a node: callers reach the node's
// software through it, whatever their version, and never see the node go down.
//
// A [Layer] listens on the public address of every service, and on one more
// address for each version that can be answered. A caller is labelled by the
// address that it reaches; the public address counts as the external version.
// Calls of the node's own version go to its software as they are. Those of other
// versions go through a chain of simulation objects (package so), in this process
// up to the first one that has a process of its own, which does the rest. Where
// the software's address, its version or the objects change, [Layer.Apply] puts a
// whole new [Routing] in place at once, and no listener that is still wanted is
// closed.
//
// # Relaying
//
// Calls that need no simulation in this process pass as bytes, unchanged, on a
// connection to the software that is their caller's alone (package calls); half closes
// and resets pass too. Of HTTP only the framing is followed (packages wire, relay), so
// that the gate knows when a connection is idle between two calls. A connection whose
// framing cannot be followed, or that changes its protocol, counts as one call until it
// ends.
//
// A plain call of HTTP/1.1 whose objects all have the bounded form (so.Bounded) is
// simulated on the same two connections, and the next one may pass as bytes again.
// Any other that needs simulation takes its connection along to net/http, which
// keeps it; when it needs none any more, the answer asks the caller to connect
// anew. But for the time that it takes, neither the caller nor the node can tell
// the two ways apart.
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
//	Finish          waits until the calls at the node have ended, and serves new ones
//	Drain           holds new calls, waits until the last ones have ended
//	(stop the old software)
//	Apply(Down)     optional: says what will come
//	(start the new software)
//	Apply           releases what is held
//
// So a call that takes its time delays no other: callers are held only for as long as
// the calls take that began meanwhile. Some never end, and nobody is held for them: events
// (text/event-stream, multipart/x-mixed-replace), connections that have changed their
// protocol, answers of a length that nothing tells and that have gone on for 5 seconds,
// and calls that may be made again and have had no answer for so long: long polls. Finish
// waits for answers of unknown length nevertheless, which may be downloads, as long as it
// may: nobody is held for that. When
// calls begin to be held, the former end as their software would end them: what it has
// said passes, and then comes the end of the connection, not a reset; for software that
// notices the end of an upgraded connection says its last. Long polls are held, and made
// again at the next software. Of HTTP/2 a connection counts as a whole: all its calls must
// have answers, and count from their beginning. A long poll or a watch that has none is not
// made again: calls are held for it as long as a drain lasts, and then it is refused.
//
// While a drain goes on, the answers of calls that are at the node say Connection:
// close; idle connections of HTTP/1.1 are kept, and their next calls held. Those of
// HTTP/2 are asked by GOAWAY to call elsewhere when Finish begins, which still takes what
// they call, and ended by GOAWAY when Drain begins. A call that is cut since
// its time is up gets 503 if it has no answer yet; else its connection ends within the
// answer, or breaks where a part would pass for the whole.
//
// An idle connection that the node closes is closed towards its caller after a
// short grace, in which a call that is on its way still goes to the node by another
// one.
//
// A node that crashes is not expected, so calls are caught in it. Those that
// cannot have reached the software are tried again until HoldTimeout; GET, HEAD,
// OPTIONS and TRACE that have are tried a few times ([relay.MaxTries]); the others get
// 502, since nobody knows whether they were carried out.
//
// # Egress
//
// The node's own calls to its peers go through the layer's proxy ([Layer.EgressURL];
// HTTP and SOCKS5) unless the kernel or the software itself finds their way. A destination that is the public address of a peer's
// service is replaced by that peer's address for this node's version; any other
// passes untouched.
package simlayer
