package relay

import "moult/simlayer/tally"

// Do is what is to be done after an event, in this order. The zero Do is nothing.
type Do struct {
	// Cancel: what waits or dials for the call is to give up.
	Cancel bool
	// Node is what becomes of the connection to the node.
	Node Ending
	// Ended: the call has ended so, and is counted. Leave: it leaves the gate, too.
	Ended, Leave bool
	Outcome      tally.Outcome
	// Caller is what becomes of the connection to the caller.
	Caller Ending
	// Timer is until when the caller is waited for now.
	Timer Timer
	// Next is what goes on beside.
	Next Next
}

// Ending is how a connection is ended.
type Ending uint8

// The endings.
const (
	Keep  Ending = iota
	Half         // nothing more is said by it
	Shut         // the same, and the caller has Linger to close it
	Hush         // nothing more of the other side is heard, but what has come
	End          // at once
	Break        // so that the other side sees that it broke
)

// Timer is a time that a caller has.
type Timer uint8

// The timers.
const (
	Same   Timer = iota // as before
	None                // it has for ever
	Head                // to send the head of a request
	Grace               // before its idle connection is closed after the node's
	Linger              // to close a connection that was ended towards it
)

// Next is what a call does next.
type Next uint8

// What a call does next.
const (
	GoOn      Next = iota
	Stop           // nothing more is read from the caller
	Again          // it is made once more
	RefuseCut      // it is refused: it was cut before it had an answer
	Refuse         // it is refused: it failed at the node
)
