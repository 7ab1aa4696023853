// Package node is every decision of an agent, pure: no clock, no network, no
// disk, no goroutine and no lock, in the manner of etcd's raft.
//
// A [Node] is owned by one goroutine, its driver. What happens goes in by
// [Node.Step], with the time at which it happened; what is to be done comes out
// of [Node.Ready]. The driver keeps one rule:
//
//	for each Ready, until one is empty:
//	  1. make Save durable, whole; where that fails, call Refused, and no more
//	  2. put Gate, Route and Directory in force
//	  3. start the Actions; sign and tell Tell; look for Read, Fetch and Check
//	  4. call Advance
//
// So nobody is told, and nothing is done, but what is durable: a Ready that has a
// Save has no Tell, and its Actions start only when step 1 is over.
//
// Package agent is the driver that has a disk, a network and software; package
// agent/sim has one over a made-up world. Both run this code.
//
// # A state waits to be saved
//
// What a node has decided and not made durable yet is in one of three states:
//
//	idle      nothing waits. Decisions are taken.
//	offered   the next Ready has a Save. No decision is taken; answers to
//	          actions wait in line.
//	refused   the disk had no room for it. As offered, but Ready has no Save
//	          until the next Tick, which offers it again.
//
// A decision is never kept over a refusal: what has been learned meanwhile (an
// order that pauses the rollout, say) counts when the node is idle again, for
// then it decides anew. Only answers to actions, which are facts, are kept.
//
// # What it knows
//
// Metadata in force, the manifests and rollout orders that they name, the view of
// all nodes, and what this node has promised. Values that were verified have types
// of their own ([Metadata]); the driver makes them of bytes that it has verified.
// What is known restrains at once, also before it is durable; it permits nothing
// before that.
package node
