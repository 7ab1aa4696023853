// Package fleet rolls a release out on a fleet that is made up, over virtual time: how long
// its schedule takes, how many nodes are up meanwhile, and for how long two versions serve
// at once.
//
// Each node is a real upgrade.Machine, and asks the real schedule.Decide; the order is made
// by schedule.Instantiate, as an operator's is. What is made up is the world: how long a
// node takes to fetch, to stop, to transform its state and to start, and what fails. That
// follows from a seed, and for each node from its number alone: the same fleet meets
// different schedules.
//
// # What is simpler than it is
//
// What a node says is known to all others after the network's delay: there is one view, not
// one for each node. Nodes do not die, and nobody is at the desk: a rollout that stops by its
// failures stays so, and that is how the run ends. There is one class; classes that settle
// before it have no nodes. Rehearsals take no time. Nodes have no
// facts: conditions hold nobody back; and no label but that of their zone: waves by others are
// left out. A node whose turn cannot have come is not
// asked: where the next in rank is refused by the budget, a wave or a window, those behind
// are, too.
package fleet
