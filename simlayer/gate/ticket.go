package gate

import (
	"time"

	"moult/simlayer/relay"
)

// Ticket is a call's stay at the node, under one routing. Once it has left it may
// be used again.
type Ticket[R comparable] struct {
	Route R    // that it was let in under
	Of    Call // nil: it ends; set before it enters

	cut        func()   // gate.mu; nil once called
	ring       *ring[R] // gate.mu, as all that follows
	prev, next *Ticket[R]
	entered    time.Time
	yielded    time.Time // when it was made to; zero: it was not
}

// lasts is that of the ticket's call.
func (t *Ticket[R]) lasts() (from time.Time, how relay.Lasting) {
	if t.Of == nil {
		return from, relay.Ends
	}
	return t.Of.Lasts(t.entered)
}

// cutLate cuts a call that has yielded and not ended in its time, and returns when that
// is over; zero: it is.
func (t *Ticket[R]) cutLate(now time.Time) (over time.Time) {
	if over = t.yielded.Add(yieldGrace); over.After(now) {
		return over
	}
	t.cutNow()
	return time.Time{}
}

// cutNow cuts a call, if nobody has.
func (t *Ticket[R]) cutNow() {
	if cut := t.cut; cut != nil {
		t.cut = nil
		cut()
	}
}

// Call is a call that may go on for ever. It is called with the gate locked, and
// must not call the gate, nor wait for who does.
type Call interface {
	// Lasts is whether the call, as it is now, may go on for ever, and from when on it is
	// taken for one that does. entered is when it was let in.
	Lasts(entered time.Time) (from time.Time, how relay.Lasting)
	// Yield has a call leave soon that is taken for such a one by then, and says how. By
	// now it may be none: it goes on, and whoever made it another stirs the gate. It is
	// not called again for one that does not.
	Yield(entered, by time.Time) Yielding
}

// Yielding is how a call that may go on for ever gives way.
type Yielding uint8

const (
	EndsNow   Yielding = iota // as its software would end it
	WaitsNow                  // it waits for the next software, and is made again
	GoesLoose                 // it does not: the software ends it when it is told to stop
	GoesOn                    // it does nothing: it ends by itself, or is not old enough
)
