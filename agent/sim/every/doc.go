// Package every visits every state that a small world can reach, where the simulator
// (package sim) takes samples of great ones.
//
// A [Small] world has two or three nodes of one class, one or two releases, and an
// operator. In each step one thing happens: metadata come to a node, any that were signed
// since those that it has; a record comes, or its first exchange with a peer since its start
// ends; an action ends, or fails; an agent dies and comes back without its view; the operator
// signs the next serial, which pauses, resumes, skips a node, or gives one another attempt,
// or the next release. [Visit] takes all of these, breadth first, from each state: so the
// first way that it finds to a broken promise is a shortest one, and is told.
//
// # What is looked at
//
//	P4  in each state: no more nodes are down than the budget, by what is durable,
//	    not counting those that were ever skipped; and in worlds with [Small.Zones] no
//	    more than one of a zone
//	P9  in each state: who waits would wait as well if it knew nothing of one of the others;
//	    and from each state a way leads to where all have settled (or are held or skipped,
//	    and the operator has no attempt left to give)
//
// # Why so few things are enough
//
// A message that is lost or late has not come yet; one that comes twice is no news. A record
// that is out of date when it comes might have come when it was new, to a node that did
// nothing about it since; and after a newer one it is not taken. That does not hold of a node
// that has lost its view, by kill -9 say: it may hear again what it was beyond. In worlds
// that are [Small.Late] it does: all that another said in any state, and that lies between
// what was last heard of it and what it says. For of what others decide by (the version, what
// it obeys, the ended attempts) nothing falls in what a node says, as TestEverySaysMore shows.
// In the other worlds it hears after a restart what each says now, or nothing.
//
// An agent that is away is one to which nothing happens. One that comes back with its view
// decides nothing before an exchange, and is then where it was.
//
// # The real node, once
//
// What becomes of one node depends on that node alone: on what is durable, on the metadata in
// force, on what it has heard of others. So the real agent/node, made by node.New and told
// what a driver tells it, decides once for each such state and each thing that may happen, a
// few thousand times; the worlds, millions of them, are put together from that. A node that is
// made anew for each step decides as one that goes on: TestEveryIsLive has both do the same.
//
// Worlds that differ in nothing that decides are one. Which node has which rank is such a
// thing: nodes are named by their ranks in the first order. The numbers of actions and
// records, and what is for people only, are left out.
package every
