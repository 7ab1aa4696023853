// Package gate lets calls in to a node, or holds them while it is down.
//
// A [Gate] owns the routing in force, of which it knows nothing but how long calls
// may wait under it. A call that [Gate.Enter] lets in has a [Ticket] under one routing
// until it leaves, and none is let in between two: so the node may be replaced when
// nobody is inside.
//
// To that end [Gate.Finish] waits for the calls that are inside while others come, and
// [Gate.Hold] and [Gate.Drained] hold those and have the ones that never end give way, as
// each [Call] says that it can. [Gate.Cut] ends what is left.
package gate
