// Package objects runs the simulation objects of one node: those that answer callers
// of older and newer versions than its software is.
//
// Its owner says which objects there are ([Objects.Offer]) and what state the node
// is in ([Objects.Arrange]). Objects that are bounded in time and memory by their form
// answer in the agent's own process; the others run in processes of their own, and so
// do all between these and the node. What an object runs from is looked for, verified,
// before that.
//
// A change of what runs takes its time: programs end, modules are compiled. So changes
// are made beside the owner, one at a time, and callers are led ([Objects.Lead]) only
// to what is in force:
//
//	as wanted ──want another──► due ──begin──► making ──followed──► ending ──ended──► as wanted
//	                             │                │refused                         or due
//	                             └────refused───► failed ──begin, after a pause──► making
//
// The order of things when the node goes down and comes up:
//
//	the gate closes                     the objects stay as they are, and next to the
//	                                    node, so that calls that are under way can end
//	these have ended, or were cut       objects with state that a transform reads end;
//	                                    what the others call waits (Part)
//	the software ends; transforms       each transform waits for the objects' end
//	the new software is ready           the objects are told where it is, those of its
//	                                    release begin; then the gate opens
//
// An Objects has one owner, in whose goroutine all its methods are called. What it does
// beside the owner it reports by [Config].Tell; the owner hands that to [Objects.Take].
package objects
