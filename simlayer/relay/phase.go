package relay

import "fmt"

// Phase is where a caller's connection stands.
type Phase uint8

// The phases. Those from Held to Writing are a call's.
const (
	Idle      Phase = iota // nothing of a call is here
	Taking                 // a part of a request is
	Held                   // a call waits to be let in, or to be let in again
	Inside                 // it is in, and not at the node yet, or it is simulated
	AtNode                 // the node has it, and has said nothing yet
	Answering              // a part of its answer has passed
	Early                  // all of its answer has, but not all of its request
	Writing                // it has ended; the last of its answer is being written
	Opaque                 // bytes pass both ways until both sides have ended
	Closing                // nothing more is answered; the caller is to close
	Frames                 // it speaks HTTP/2, which Conn does not follow
	Handing                // net/http takes the connection
	Over                   // it is closed
	phases                 // how many there are
)

var phaseNames = [phases]string{"idle", "taking", "held", "inside", "atNode", "answering", "early", "writing", "opaque", "closing", "frames", "handing", "over"}

// String implements fmt.Stringer.
func (p Phase) String() string {
	if p < phases {
		return phaseNames[p]
	}
	return fmt.Sprintf("phase %d", uint8(p))
}

// set is a set of phases.
type set uint16

func of(all ...Phase) (s set) {
	for _, p := range all {
		s |= 1 << p
	}
	return s
}

func (s set) has(p Phase) bool { return s&(1<<p) != 0 }

// follows has, for each phase, those that may follow it. Every phase may be followed
// by Closing and by Over: either side may break off at any time.
var follows = [phases]set{
	Idle:      of(Taking, Handing),
	Taking:    of(Held, Frames, Handing),
	Held:      of(Inside, Writing),
	Inside:    of(Held, AtNode, Answering, Writing, Opaque, Handing),
	AtNode:    of(Held, Answering, Early, Writing, Opaque),
	Answering: of(Early, Writing, Opaque),
	Early:     of(Writing, Opaque),
	Writing:   of(Idle),
	Opaque:    0,
	Closing:   0,
	Frames:    of(Handing),
	Handing:   0,
	Over:      0,
}

var (
	// calling are the phases in which a call is on.
	calling = of(Held, Inside, AtNode, Answering, Early, Opaque)
	// waiting are those in which the caller's next bytes have to wait.
	waiting = of(Held, Inside, AtNode, Answering, Early, Writing)
	// begun are those in which something of an answer has passed, or may have.
	begun = of(Answering, Early, Opaque)
)

// to goes on to another phase. One that must not follow is a fault of this package or
// of its driver, and would make two calls one: it stops the program.
func (c *Conn) to(p Phase) {
	if c.phase == Over {
		return
	}
	if p != Closing && p != Over && !follows[c.phase].has(p) {
		panic(fmt.Sprintf("relay: %v after %v", p, c.phase))
	}
	c.phase = p
}
