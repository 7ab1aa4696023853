package simlayer

import (
	"errors"
	"fmt"
	"time"

	"moult/simlayer/gate"
	"moult/simlayer/relay"
)

// Limits bounds what callers can make a Layer hold.
type Limits struct {
	// Held bounds the calls that wait at once, in and out.
	Held int
	// Conns bounds the connections that are open at once.
	Conns int
	// Replay bounds, in bytes, a body that is read before its call is let in, so
	// that a slow caller cannot delay a drain and the call can be tried again.
	// Longer bodies are streamed.
	Replay int
}

// DefaultLimits is what a Layer has where Config.Limits is zero.
func DefaultLimits() Limits {
	return Limits{Held: 4096, Conns: 16384, Replay: 16 << 10}
}

func (l Limits) validate() error {
	if l.Held < 1 || l.Conns < 1 || l.Replay < 0 || l.Replay > maxReplay {
		return fmt.Errorf("limits %+v: want at least 1 call held and 1 connection, and 0 to %d bytes kept", l, maxReplay)
	}
	return nil
}

const (
	// DefaultHoldTimeout is how long calls wait where a Routing does not say,
	// and before the first Routing.
	DefaultHoldTimeout = 30 * time.Second
	// MaxHoldTimeout bounds Routing.HoldTimeout.
	MaxHoldTimeout = time.Hour

	maxServices = 32
	// maxReplay bounds Limits.Replay.
	maxReplay = 16 << 20

	// Tries of a call that fails at a node that accepts connections.
	maxTries = relay.MaxTries
	// The pauses between tries grow from the first to the second.
	minPause = 10 * time.Millisecond
	maxPause = 250 * time.Millisecond

	// objectShare is the part of Limits.Conns, one in so many, that calls of one
	// version to one object process may be at once: one that calls itself in a
	// circle leaves room for all others.
	objectShare = 4

	// headerTimeout bounds the time that a caller takes to send a head.
	headerTimeout = time.Minute
	// lastingAfter is when a call is taken for one that never ends by itself, or not
	// soon: an answer whose length nothing tells and that has gone on for so long, or a
	// call that could be made again and has had no answer for so long (a long poll).
	// Events (text/event-stream, multipart/x-mixed-replace) and connections that have
	// changed their protocol are taken for such at once.
	lastingAfter = 5 * time.Second
	// lastCalls is the part of the hold timeout, one in so many, for which a drain holds
	// new calls to let the last ones end. It is no less than rawGrace.
	lastCalls = 3
	// rawGrace is how long a drain waits for a connection of a raw protocol to end, from
	// its beginning.
	rawGrace = time.Second
	// cutGrace is how long calls have to end once they are cut.
	cutGrace = 5 * time.Second
	// answerTime is how long a node that goes down has to answer a datagram. There
	// is no telling whether it would.
	answerTime = 100 * time.Millisecond
	// retryAfter is what held callers are told.
	retryAfter = time.Second

	// aloneAtMost is about how long a simulated call waits for the node before somebody
	// watches the caller meanwhile.
	aloneAtMost = 5 * time.Millisecond
	// maxAnswerHead bounds the head of a node's answer to a simulated call, in bytes.
	maxAnswerHead = 1 << 20

	// maxKeptRequest is how much memory for a request a relayed connection keeps
	// from one call to the next, in bytes.
	maxKeptRequest = 1 << 10
	// idleGrace is how long a caller keeps an idle connection whose other end
	// the node has closed: time for a call that is on its way, and for the
	// agent to find out that the node has crashed.
	idleGrace = 2 * time.Second
	// linger is how long a caller has to close a connection that was ended
	// towards it, so that what was sent last is not lost to a reset.
	linger = time.Second

	// lookPause is the least time between two looks whether there are still calls
	// that are not seen.
	lookPause = 20 * time.Millisecond
)

var (
	// ErrClosed is returned after Close.
	ErrClosed = gate.ErrClosed
	// ErrEgress is returned by Start where it is the egress proxy that has no
	// address to listen on.
	ErrEgress = errors.New("egress proxy")

	errCut  = errors.New("the node goes down and the call did not end in time")
	errBack = errors.New("the node goes down; the call is made again")
)
