package relay

import (
	"moult/simlayer/tally"
	"moult/simlayer/wire"
)

// Conn is the core of a caller's connection of HTTP/1.1. The zero Conn is that of one
// that has said nothing. It is for one goroutine at a time.
type Conn struct {
	phase   Phase
	caller  caller
	node    node
	timer   Timer
	later   bool // a request was read
	retired bool // the address is given up
	seen    int  // how much of a head was searched for its end

	call call
}

// caller is how the caller's side stands.
type caller uint8

const (
	callerTalks caller = iota
	callerDone         // it has said all
	callerGone
)

// node is how the connection to the node stands.
type node uint8

const (
	noNode node = iota
	nodeOpen
	nodeEnds // it is about to end, or should not get another call
)

// call is the one that is on.
type call struct {
	method   string
	request  progress
	sends    wire.Body // what is left of the request
	odd      bool      // it is no request that can be followed
	replay   bool      // it may be made again, with what was read of it
	asksLast bool      // the caller wants no other
	last     bool      // no other follows
	cut      bool
	back     bool // it is taken back from the node, to be made again
	parting  bool // an opaque one is to end as the node ends it
	sent     bool // a simulated one is at the node
	ahead    bool // the caller has said more behind it
	tries    int
	marked   bool // by an object process, which may refuse it
	outcome  tally.Outcome
	inBody   bool // of the answer
	body     wire.Body
	untilEnd bool // the answer goes on until the node closes
	unsized  bool // nothing tells its length
	events   bool // it goes on for as long as things happen
}

// progress is how far a request has passed.
type progress uint8

const (
	requestGoesOn progress = iota
	requestStuck           // the node takes no more of it
	requestPassed
)

// Phase is where the connection stands.
func (c *Conn) Phase() Phase { return c.phase }

// Calling reports whether a call is on.
func (c *Conn) Calling() bool { return calling.has(c.phase) }

// Waits reports whether the caller's next bytes have to wait.
func (c *Conn) Waits() bool { return waiting.has(c.phase) }

// Begun reports whether something of the call's answer has passed, or may have.
func (c *Conn) Begun() bool { return begun.has(c.phase) }

// WasCut reports whether the call was cut.
func (c *Conn) WasCut() bool { return c.call.cut }

// Left reports whether the caller has said all, and whether it has gone.
func (c *Conn) Left() (ended, gone bool) { return c.caller != callerTalks, c.caller == callerGone }

// Method is that of the call.
func (c *Conn) Method() string { return c.call.method }

// Turn is what is to be done with bytes of the caller.
type Turn uint8

// The turns.
const (
	Take    Turn = iota // see Request
	Wait                // a call is on
	Pass                // they go to the node, whatever they are
	Discard             // nobody wants them
	Hand                // they go to net/http, with the connection
)

// Ready says that bytes of the caller are here.
func (c *Conn) Ready() (Turn, Do) {
	var do Do
	if c.timer == Grace {
		do.Timer, c.timer = None, None
	}
	switch c.phase {
	case Idle:
		c.to(Taking)
		c.seen = 0
		return Take, do
	case Taking:
		return Take, do
	case Opaque:
		return Pass, do
	case Handing:
		return Hand, do
	case Closing, Over:
		return Discard, do
	}
	c.call.ahead = true
	return Wait, do
}

// HandOver says that net/http is to have the connection, with the call that is on.
func (c *Conn) HandOver() { c.to(Handing) }

// SpeaksFrames says that the connection is one of HTTP/2.
func (c *Conn) SpeaksFrames() { c.to(Frames) }

// Begin says that a request, taken so, begins a call; safe: it may be sent again when
// nobody knows whether it was carried out.
func (c *Conn) Begin(req wire.Request, how How, safe bool) {
	whole, odd := how == Whole, how == Odd
	c.to(Held)
	c.call = call{method: req.Method, odd: odd, asksLast: req.Close, replay: whole && safe, sends: wire.NewBody(req.Body, req.Length)}
	if whole {
		c.call.request = requestPassed
	}
}

// Enter says that the gate has let the call in.
func (c *Conn) Enter() { c.to(Inside) }

// Leave says that the call has to enter again. It reports whether it is in the gate
// still.
func (c *Conn) Leave() (inside bool) {
	if c.phase != Inside {
		return false
	}
	c.call.sent, c.call.back = false, false
	c.to(Held)
	return true
}

// TryAgain counts a call that has failed, and reports whether it may be made again.
func (c *Conn) TryAgain() bool {
	c.call.tries++
	return c.call.tries < MaxTries
}

// Usable reports whether the connection to the node that there is may get the call.
func (c *Conn) Usable() bool { return c.node == nodeOpen }

// Sends says that the call goes to the node now, by a connection that is fresh or was
// there; via: to an object process, which marks what it refuses. false: it was cut
// meanwhile.
func (c *Conn) Sends(fresh, via bool) bool {
	if fresh && c.call.cut {
		return false
	}
	c.node = nodeOpen
	c.call.marked = via
	if c.call.odd {
		c.to(Opaque)
	} else {
		c.to(AtNode)
	}
	return true
}

// Body takes bytes of the caller that follow what has passed of a request, and returns
// how many of them are its own; ok: they can be followed, else Lost is due. Once they
// have passed to the node, and BodyLeft has no more, Passed is due.
func (c *Conn) Body(p []byte) (n int, ok bool) { return c.call.sends.Feed(p) }

// BodyLeft is whether more of the request follows, and how much of it is certain to
// come, whatever it is; BodyMoved says that n bytes of that have passed.
func (c *Conn) BodyLeft() (more bool, certain int64) {
	return !c.call.sends.Done(), c.call.sends.Left()
}

// BodyMoved see BodyLeft.
func (c *Conn) BodyMoved(n int64) { c.call.sends.Skip(n) }

// Passed says that all of the request has passed.
func (c *Conn) Passed() Do {
	c.call.request = requestPassed
	if c.phase != Early {
		return Do{}
	}
	do := c.end(c.call.outcome)
	do.Caller, do.Timer = c.settle()
	return do
}

// Stuck says that the node takes no more of the request.
func (c *Conn) Stuck() { c.call.request = requestStuck }

// Lost says that what follows can not be told apart: there are just bytes.
func (c *Conn) Lost() {
	if c.Calling() && c.phase != Opaque {
		c.to(Opaque)
	}
}

// end ends the call; the last of its answer is still to be written.
func (c *Conn) end(o tally.Outcome) Do {
	do := Do{Ended: true, Leave: c.phase != Held, Outcome: o}
	c.to(Writing)
	return do
}

// Simulated says that a call that does not go to the node itself is answered; what is
// said of it last is still to be written. last: no other call follows.
func (c *Conn) Simulated(o tally.Outcome, last bool) Do {
	c.call.last = c.call.last || last
	return c.end(o)
}

// SimulatedSends says that such a call calls the node; safe: that may be done again.
func (c *Conn) SimulatedSends(safe bool) { c.call.sent = safe }

// SimulatedPart says that a part of the answer of such a call passes, of which nothing
// tells the length where unsized is set, and which may be events.
func (c *Conn) SimulatedPart(unsized, events bool) {
	if c.phase == Inside {
		c.call.unsized, c.call.events = unsized, events
		c.to(Answering)
	}
}

// Wrote says that the last of an answer was written.
func (c *Conn) Wrote() (do Do) {
	if c.phase == Writing {
		do.Caller, do.Timer = c.settle()
	}
	return do
}

// settle is what follows a call.
func (c *Conn) settle() (Ending, Timer) {
	if c.call.last || c.call.request == requestStuck || c.retired && !c.call.ahead {
		c.to(Closing)
		c.timer = Linger
		return Shut, Linger
	}
	c.to(Idle)
	return Keep, Same
}

// Refused says that the call gets no answer of the node. answer: the caller is told,
// and Wrote follows; else its connection breaks. gone: nobody is there to be told.
func (c *Conn) Refused(o tally.Outcome, gone bool) (answer bool, do Do) {
	if gone || c.caller != callerTalks {
		return false, c.Lose(tally.Canceled)
	}
	if c.Begun() || c.call.odd {
		return false, c.Lose(o)
	}
	c.call.last = c.LastRefusal()
	return true, c.end(o)
}

// LastRefusal reports whether a refusal of the call would be the last answer of the
// connection.
func (c *Conn) LastRefusal() bool {
	return c.call.cut || c.call.request != requestPassed || c.call.asksLast
}

// Lose ends the call, and its connection so that the caller sees that it broke.
func (c *Conn) Lose(o tally.Outcome) Do {
	do := Do{Ended: c.Calling(), Leave: c.Calling() && c.phase != Held, Outcome: o, Caller: Break}
	if c.call.cut && c.Begun() && o != tally.Canceled && !c.passesForWhole() {
		do.Caller, do.Timer, c.timer = Shut, Linger, Linger
	}
	c.to(Closing)
	return do
}

// passesForWhole reports whether a part of the answer would pass for the whole where
// the connection just ends.
func (c *Conn) passesForWhole() bool { return c.call.untilEnd && !c.call.events }

// CallerEnded says that the caller has said all, or has gone.
func (c *Conn) CallerEnded(gone bool) Do {
	c.caller = max(c.caller, callerDone)
	do := Do{Next: Stop}
	if gone {
		c.caller = callerGone
	}
	if !c.Calling() {
		return do
	}
	do.Cancel = gone || c.phase == Held
	do.Node = Half
	if gone {
		do.Node = End
	}
	return do
}

// Late says that the caller's time is over.
func (c *Conn) Late(open bool) Do {
	grace := c.timer == Grace
	switch {
	case c.phase == Closing || c.phase == Handing || c.phase == Over:
		return Do{Next: Stop}
	case grace && !c.Calling() && c.node == noNode && open:
		return Do{Next: Stop}
	}
	c.timer = None
	return Do{Timer: None}
}

// Cuts says that the call is to end soon. What the node has said by now passes, and then
// the caller's connection ends, or breaks where a part would pass for the whole.
func (c *Conn) Cuts() Do {
	if !c.Calling() {
		return Do{} // it has ended, and is about to leave the gate
	}
	// last also where all of the answer passes in time: what bounds the writing of it
	// holds for the connection, and would spoil the next answer.
	c.call.cut, c.call.last = true, true
	do := Do{Cancel: true, Node: End}
	switch {
	case c.phase == Opaque:
		c.call.parting = true
		do.Node, do.Caller = Hush, Hush
	case c.Begun() && c.passesForWhole():
		do.Caller = Break
	case c.Begun():
		do.Node = Hush
	}
	return do
}

// Lasting is whether a call may go on for ever.
type Lasting uint8

// What calls do.
const (
	Ends    Lasting = iota
	Polls           // it has no answer yet, and may be made again
	Streams         // its answer goes on, and nothing tells how long it is
	Endless         // it is not meant to end: events, or a connection that is just bytes
)

// Lasting is whether the call may go on for ever.
func (c *Conn) Lasting() Lasting {
	switch {
	case c.phase == Opaque, c.phase == Answering && c.call.events:
		return Endless
	case c.phase == Answering && c.call.unsized:
		return Streams
	case c.call.replay && !c.call.cut && (c.phase == AtNode || c.phase == Inside && c.call.sent):
		return Polls
	}
	return Ends
}

// Yields says that a call that may go on for ever gives way to the next software: one
// without an answer is made again. One that is just bytes ends towards the node, which
// may say its last; any other is cut.
func (c *Conn) Yields() (do Do, again bool) {
	switch {
	case c.Lasting() == Polls:
		c.call.back = true
		return Do{Node: End}, true
	case c.phase == Opaque:
		c.call.parting = true
		return Do{Caller: Hush}, false
	}
	return c.Cuts(), false
}

// TakenBack reports whether the call gives way so, and is to be made again.
func (c *Conn) TakenBack() bool { return c.call.back }

// Parting reports whether nothing more is heard of the caller.
func (c *Conn) Parting() bool { return c.call.parting }

// Retire says that the caller's address is given up: the connection ends after the
// call that is on, or on its way.
func (c *Conn) Retire() Do {
	c.retired = true
	if c.phase != Idle && c.phase != Closing {
		return Do{}
	}
	c.to(Over)
	return Do{Caller: End}
}

// NoNode says that there is no connection to the node any more.
func (c *Conn) NoNode() { c.node = noNode }

// Finish ends a call whose bytes have all passed, or all connections at the end.
func (c *Conn) Finish() Do {
	do := Do{Ended: c.Calling(), Leave: c.Calling() && c.phase != Held, Outcome: tally.Canceled}
	if c.phase == Opaque {
		do.Outcome = tally.Answered
		if c.call.cut {
			do.Outcome = tally.Failed
		}
	}
	c.to(Over)
	return do
}
