package schedule

import "time"

const (
	// MaxOrderBytes bounds the JSON of an order. A place in a roster takes 67
	// bytes of it.
	MaxOrderBytes = 8 << 20
	// MaxRoster bounds the places in the roster of one class; MaxOrderBytes has room for one
	// of so many.
	MaxRoster = 100_000
	// MaxClasses bounds the classes of an order.
	MaxClasses = 64
	// MaxWaves bounds the waves of one class: more than a release can name, since one of
	// these may be many.
	MaxWaves = 256
	// MaxForgotten bounds the nodes that an order has forgotten: the oldest go first.
	MaxForgotten = 4_096
	// MaxNumber bounds the number of a record up to which one is.
	MaxNumber = 1 << 62
	// forgetAhead is by how much the operator's peer may be behind what a node has said.
	forgetAhead = 1_024
	// MaxJoined bounds the orders whose place one takes by joining them.
	MaxJoined = 16
	// MaxSerial bounds how often an order changes.
	MaxSerial = 1_000_000

	// maxAsked bounds of how many nodes Idles asks what keeps them.
	maxAsked = 16

	// finalizeStep is the most that counts at once of the time until a release is finalized by its
	// own word, and finalizeLapse how long it may stand still, while this agent does not run or
	// somebody cannot be reached, before it begins anew.
	finalizeStep  = 10 * time.Second
	finalizeLapse = 5 * time.Minute

	// maxProblems bounds how many problems one error reports.
	maxProblems = 8
	// maxNamed bounds how many nodes a reason names in its text; Reason.Nodes
	// has all of them.
	maxNamed = 5
)
