package simlayer

import (
	"errors"
	"fmt"
	"time"

	"moult/simlayer/calls"
	"moult/simlayer/gate"
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
	if l.Held < 1 || l.Conns < 1 || l.Replay < 0 || l.Replay > calls.MaxReplay {
		return fmt.Errorf("limits %+v: want at least 1 call held and 1 connection, and 0 to %d bytes kept", l, calls.MaxReplay)
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

	// lastCalls is the part of the hold timeout, one in so many, for which a drain holds
	// new calls to let the last ones end. It is no less than RawGrace.
	lastCalls = 3
	// cutGrace is how long calls have to end once they are cut.
	cutGrace = 5 * time.Second
	// answerTime is how long a node that goes down has to answer a datagram. There
	// is no telling whether it would.
	answerTime = 100 * time.Millisecond
	// weanTime is how long callers have to make a call by whose answer they are told to
	// connect anew, and freshTime how long who has just connected may take to call. lastTime
	// is what the last answers have to be written, after the node has given them, where there
	// are calls beside them that never end.
	weanTime  = 2 * time.Second
	freshTime = 500 * time.Millisecond
	lastTime  = 2 * time.Second
	// Between two looks whether there are still calls that are not seen it is at least the
	// first and at most the second.
	lookPause    = 20 * time.Millisecond
	maxLookPause = time.Second
)

var (
	// ErrClosed is returned after Close.
	ErrClosed = gate.ErrClosed
	// ErrEgress is returned by Start where it is the egress proxy that has no
	// address to listen on.
	ErrEgress = errors.New("egress proxy")
)
