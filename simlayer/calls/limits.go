package calls

import (
	"errors"
	"time"

	"moult/simlayer/relay"
)

const (
	// MaxReplay bounds Config.Replay.
	MaxReplay = 16 << 20

	// maxTries bounds the tries of a call that fails at a node that accepts connections.
	maxTries = relay.MaxTries
	// The pauses between tries grow from the first to the second.
	minPause = 10 * time.Millisecond
	maxPause = 250 * time.Millisecond

	// objectShare is the part of Config.Open, one in so many, that calls of one
	// version to one object process may be at once: one that calls itself in a
	// circle leaves room for all others.
	objectShare = 4

	// headerTimeout bounds the time that a caller takes to send a head.
	headerTimeout = time.Minute
	// lastingAfter is Calls.LastingAfter. Events (text/event-stream,
	// multipart/x-mixed-replace) and connections that have changed their protocol are
	// taken for calls that never end at once.
	lastingAfter = 5 * time.Second
	// RawGrace is how long a drain waits for a connection of a raw protocol to end, from
	// its beginning.
	RawGrace = time.Second
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
)

var (
	errCut  = errors.New("the node goes down and the call did not end in time")
	errBack = errors.New("the node goes down; the call is made again")
)
