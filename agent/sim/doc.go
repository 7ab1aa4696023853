// Package sim is the deterministic simulator: a cluster of agents and all that
// can happen to it, in one goroutine, over virtual time.
//
// Each agent here is a real agent/node, with the real agent/upgrade, agent/schedule
// and gossip/view in it: every decision is the one that package agent runs. The
// simulator stands in for what package agent is itself, the driver of a node with a
// disk, a network and software:
//
//	time      a queue of events; nothing else makes time pass
//	network   messages are lost, late, doubled, overtaken, mangled; partitions,
//	          also one-way
//	disk      slots and the live slot's name may be synced or not yet; what a
//	          node has saved, documents and a cache of the view are durable when
//	          written; disks fill up; databases are lost
//	documents come later than the metadata that name them, or are asked for in
//	          vain for a while
//	software  starts late or never, dies, gets unwell after it was admitted;
//	          ends or fails its checks in its soak, or long after, once or again
//	          and again; goes on when its agent dies, and does not when its
//	          machine does
//	callers   write, and count what was acknowledged
//	operator  signs one order after the other, from the view of some peer, which
//	          may be old: releases one after the other, also while an earlier one
//	          rolls out; pauses, resumes, aborts, skips (also nodes that live),
//	          retries, starts, changes budgets; withdraws a release that nobody of a
//	          class gets past, and others, and has the next one go around them
//
// An agent dies, with or without its machine, at random times, and between any
// two things that it does: before and after a state is saved, before and after
// it is told, between actions, between the parts of an action, and again while
// it recovers. Nodes join late, with state from before moult or without any; one
// may be away for two releases.
//
// All of it follows from a seed: a run has no other source of chance, no clock,
// no goroutine, and takes nothing from the order of a map. [Result.Hash] is that
// of the whole trace, so that two runs of one seed can be compared, and a
// failure prints the command that replays it.
//
// # Planted faults
//
// A [Plant] is where a test puts a fault: in what goes into a node, in what is done
// with the Ready that comes out of it, in the rules of package schedule, or in the
// world. Each test plants one and sees which check finds it.
//
// # The checks
//
// After every event:
//
//	P1  nobody goes down by metadata that have expired by its own clock, but to go back
//	P2  metadata never go back; none older than the floor are acted on
//	P3  nobody goes down for a release that it was shown to be signed twice; who has
//	    gone down goes on by the content that it began with, and starts no other on
//	    a state that was made by it
//	P4  of each class at most k nodes are down, by what is durable; k is as the
//	    proof in package schedule says, and nodes that were ever skipped, or have
//	    never served, do not count; and nobody goes down whom a newer order, that
//	    it was ever shown, forbids it
//	P5  nothing is started on, or serves from, a slot that is not whole and of
//	    its version; the old slot stays as it was when the software stopped until
//	    the new one has settled
//	P6  whatever serves has every write that was ever acknowledged, and callers
//	    are never led back to an older version
//	P7  a restarted machine has the state that was saved, and asks for the same
//	    however often it is made; nothing is started, and nothing told, that is
//	    not saved
//	P8  a view has exactly the newest of the records that it was given, equals
//	    every view that was given the same, and holds nothing that its node did
//	    not sign; what a node promises never goes down
//	P9  a wait stays a wait when a record is missing; whoever goes down would
//	    have gone knowing all that any node ever said; nobody goes before the
//	    first exchange since its start, or gives up a release without having
//	    seen its rollout aborted
//	P14 whatever serves has every detail that was ever acknowledged, of those that its form
//	    can hold: a release is taken back, and gone forward to again, without losing one
//	answered
//	    whoever runs a version answers callers of its neighbours that it knows, and
//	    gives up older ones only where everybody in an order has gone on
//	strangers
//	    once all have settled, callers from outside are taken for the version that every
//	    member has reached, whatever those run whom nobody has enrolled, or who are evicted
//	withdrawn
//	    nobody is let in to what is withdrawn but who was skipped, and no transform
//	    takes the state of another version than the one that it was written for
//
// Besides, nobody goes down by an order whose canaries have settled and have not been
// well for their whole soak, or over a node that has settled and is known not to be well;
// nor before the waves before its own have gone well; nor outside a window, nor before the nodes of a class that settles first; nor before the world
// is as high as its order wants, or while those that have settled have more errors than the others.
//
// And once faults have stopped and the operator attends, every node settles at
// the newest release within a bounded time, but those that can never work, and
// all views become equal.
//
// In every fourth run nodes leave the ring, for a while or for good, some just as their turn
// has come or in the soak for which others wait, and the operator has some forgotten: then a view counts no record that the newest order forgets.
// In every seventh run the operator says who belongs: late comers are enrolled, others are
// evicted, and live on at what they run.
// In every sixth run or so two operators change one order at once, each by another peer's
// view; later one of them joins the two, and resumes when every node has said that it is up.
// In every eighth run there are windows, and classes that settle before others.
// In every fifth run nodes publish facts, which now and then are not known, and orders have
// conditions that go by them; the software of some releases has many errors at first.
// In every ninth run the nodes are in two zones, or in none that anybody knows, and releases
// go in waves, and have few nodes of each zone down at once.
// In every fifth run or so the operator takes releases back at any moment, goes forward to
// them again, and once faults have stopped does both to the end.
// In every thirteenth run nodes go by chance.
// In every fifth run releases are withdrawn, mostly one that no node of a class gets past.
//
// # What it cannot see
//
// It takes samples; package every, beside it, visits all states of small worlds.
// Signatures over metadata (P1, P3), bounds (P10), traffic (P11) and real processes
// (P12) are tested where they are. Data folders brought back whole from backups are not
// simulated: they break what the proof of P4 assumes, and lose writes whatever the node
// does. A disk that has lost the floor file and the journal's end is; its node does not
// count for P4. Artifacts are fetched as one event; the swarm has its own tests. Records
// leave out addresses and the reason for a wait, which steer nothing.
package sim
