package packets

import (
	"time"

	"moult/simlayer/tally"
	"moult/store/bundle"
)

// Way says where the datagrams of one address go now.
type Way struct {
	// Addr is the host:port that they go to; "" where they go nowhere now.
	Addr string
	// Hold is how long they wait where they go nowhere now; 0: they are dropped.
	Hold time.Duration
	// Changed is closed when the way may have become another. Needed with Hold.
	Changed <-chan struct{}
	// Version is the callers'.
	Version bundle.Version
	// Native is that of the node that they come to, themselves or by an object, which may
	// refuse them; 0: to none.
	Native bundle.Version
	// Denied: where they are dropped, that is by an author's word.
	Denied bool
}

// Target knows the way, and counts. It is asked and told of every datagram, with
// the relay locked: it must not block, nor call the relay.
type Target interface {
	Way() Way
	// Count is told of a datagram that was passed on (tally.Answered) or dropped by a
	// way, and how long it had waited.
	Count(way Way, o tally.Outcome, waited time.Duration)
}

// Quota counts sessions with other connections elsewhere. Enter reports false where
// there are too many; Leave follows all the same.
type Quota interface {
	Enter() bool
	Leave()
}

// Stats is what a Relay has seen since it began.
type Stats struct {
	Sessions    int   // now
	Held        int   // datagrams that wait now
	ToNode      int64 // datagrams passed on
	ToCaller    int64
	NoTarget    int64 // dropped: they went nowhere
	Overflow    int64 // dropped: too many waited, or too many callers were there
	Expired     int64 // dropped: they waited too long
	Unreachable int64 // dropped, or said so by the other side: nobody listens there
}
