package relay

import (
	"moult/simlayer/so"
	"moult/simlayer/tally"
	"moult/simlayer/wire"
)

// refusalHeader is so.RefusalHeader, for the parser.
var refusalHeader = []byte(so.RefusalHeader)

// CloseLine is put into the head of an answer that is the last of its connection.
const CloseLine = "Connection: close\r\n"

// Part is what is to be done with bytes of the node: Do first, then the first Pass of
// them go to the caller. Where Ends, Wrote follows that.
type Part struct {
	Do     Do
	Pass   int
	Insert int // CloseLine goes before this one of them; 0: it does not
	Ends   bool
	Keep   bool // nothing passes: they are a piece of a head, of which more must come
	Drop   bool // nothing passes: nobody may have them
}

// Answer takes bytes of the node. full: no more of a head can be kept. polite: the
// caller had better connect anew.
func (c *Conn) Answer(p []byte, full, polite bool) Part {
	switch {
	case c.phase == Opaque:
		return Part{Pass: len(p)}
	case c.phase == AtNode && c.call.back:
		return Part{Drop: true} // it is made again
	}
	switch c.phase {
	case AtNode, Answering:
		if c.call.inBody {
			return c.nextPart(p)
		}
		return c.head(p, full, polite)
	case Early:
		return c.lost(p) // behind the answer
	case Held, Inside:
		// It was said before the call got there, so it is no answer to it.
		c.node = nodeEnds
		return Part{Drop: true}
	}
	c.node = nodeEnds // nobody asked: it is about to close, perhaps
	return Part{Pass: len(p)}
}

// head takes bytes that begin with a head.
func (c *Conn) head(p []byte, full, polite bool) Part {
	end := wire.HeadEnd(p, 0)
	if end < 0 && !full {
		return Part{Keep: true}
	}
	var marked []byte
	if c.call.marked {
		marked = refusalHeader
	}
	r, ok := wire.ParseResponse(p[:max(end, 0)], c.call.method, marked)
	switch {
	case !ok || r.Switched():
		return c.lost(p)
	case r.Interim():
		c.begins()
		return Part{Pass: end}
	}
	return c.firstPart(p, end, r, polite)
}

func (c *Conn) begins() {
	if c.phase == AtNode {
		c.to(Answering)
	}
}

// lost passes on what is no answer that can be followed: from here on there are just
// bytes.
func (c *Conn) lost(p []byte) Part {
	c.to(Opaque)
	return Part{Pass: len(p)}
}

// firstPart takes the head of an answer, and what follows it.
func (c *Conn) firstPart(p []byte, end int, r wire.Response, polite bool) Part {
	c.call.body, c.call.inBody = wire.NewBody(r.Body, r.Length), true
	n, ok := c.call.body.Feed(p[end:])
	if !ok || end+n < len(p) {
		return c.lost(p)
	}
	if r.Refusal != nil {
		c.call.outcome = RefusedBy(string(r.Refusal))
	}
	c.call.untilEnd, c.call.events = r.Body == wire.UntilClose, r.Events
	c.call.unsized = c.call.untilEnd || r.Body == wire.Chunked
	insert := 0
	switch {
	case r.Close:
		c.node = nodeEnds
	case polite, c.call.cut:
		insert = end - len("\r\n")
		c.call.last, c.node = true, nodeEnds
	}
	part := c.pass(len(p))
	part.Insert = insert
	return part
}

// nextPart takes more of an answer's body.
func (c *Conn) nextPart(p []byte) Part {
	n, ok := c.call.body.Feed(p)
	if !ok || n < len(p) {
		return c.lost(p)
	}
	return c.pass(len(p))
}

// pass lets n bytes of an answer pass. The call ends just before its last ones are
// written, so that nobody can know the answer and still find the call at the node:
// all of it has been read.
func (c *Conn) pass(n int) Part {
	part := Part{Pass: n}
	switch {
	case !c.call.body.Done():
		c.begins()
		return part
	case c.call.request != requestPassed:
		c.call.inBody = false
		c.to(Early)
		return part
	}
	c.call.inBody = false
	part.Do, part.Ends = c.end(c.call.outcome), true
	return part
}

// Movable is how many bytes of the answer are certain to come, whatever they are.
func (c *Conn) Movable() int64 {
	if !c.call.inBody || c.call.untilEnd || c.phase != Answering {
		return 0
	}
	return c.call.body.Left()
}

// Moved says that n of them have passed.
func (c *Conn) Moved(n int64) Part {
	c.call.body.Skip(n)
	if c.phase == Opaque {
		return Part{} // meanwhile the caller's side could not be followed any more
	}
	return c.pass(0)
}

// Why the answers of a connection to the node end.
type Why uint8

// The reasons.
const (
	NodeClosed  Why = iota // it has said all
	NodeBroke              // it broke off
	CallerBroke            // the caller takes no more of them
)

// NodeEnded says that the connection to the node has ended. left: so has every other
// to it, and none is made any more, for the node goes down.
func (c *Conn) NodeEnded(why Why, left bool) Do {
	last := c.node == nodeEnds
	if c.phase != Opaque {
		c.node = noNode
	}
	switch c.phase {
	case Opaque:
		if why == NodeClosed {
			return Do{Caller: Half}
		}
		return Do{Node: End, Caller: Break}
	case AtNode, Answering, Early:
		return c.callEnded(why)
	}
	switch {
	case why == CallerBroke && c.Calling():
		c.caller = callerGone // the call finds it out where it is
		return Do{Cancel: true, Caller: Break}
	case why == CallerBroke && c.phase == Taking:
		c.caller = callerGone // whoever takes the request finds it out
		return Do{Caller: Break}
	case why == CallerBroke:
		c.to(Closing)
		return Do{Caller: Break}
	case c.phase != Idle:
	case last:
		c.to(Closing)
		c.timer = Linger
		return Do{Caller: Shut, Timer: Linger}
	case !left:
		c.timer = Grace
		return Do{Timer: Grace}
	}
	return Do{}
}

// callEnded is NodeEnded for a call that is at the node.
func (c *Conn) callEnded(why Why) Do {
	started := c.Begun()
	switch {
	case why == CallerBroke:
		return c.Lose(tally.Canceled)
	case c.call.cut && started && c.call.events:
		return c.Lose(c.call.outcome) // nobody missed its end
	case c.call.cut && started:
		return c.Lose(tally.Failed)
	case c.call.cut:
		return Do{Next: RefuseCut}
	case c.caller == callerGone || c.caller == callerDone && !started:
		return c.Lose(tally.Canceled)
	case started && why == NodeBroke:
		return c.Lose(tally.Failed)
	case started:
		return c.answerEnded()
	case c.call.back:
		c.call.back = false
		c.to(Held)
		return Do{Next: Again}
	case c.call.replay && c.TryAgain():
		c.to(Held)
		return Do{Next: Again}
	}
	return Do{Next: Refuse}
}

// answerEnded ends a call whose node has closed in or after its answer.
func (c *Conn) answerEnded() Do {
	o := c.call.outcome
	if !c.call.untilEnd && c.phase != Early {
		o = tally.Failed
	}
	c.call.last = true
	do := c.end(o)
	do.Caller, do.Timer = c.settle()
	return do
}

// RefusedBy is the outcome of a call that an object process has answered, by its
// so.RefusalHeader.
func RefusedBy(header string) tally.Outcome {
	switch header {
	case so.RefusalDenied:
		return tally.Denied
	case so.RefusalError:
		return tally.Failed
	}
	return tally.Answered
}
