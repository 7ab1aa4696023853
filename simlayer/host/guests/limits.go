package guests

import (
	"time"

	"moult/store/bundle"
)

const (
	// heartbeat is the time between two signs of life.
	heartbeat = 200 * time.Millisecond
	// endGrace is how long calls have to end where the process was asked to end, and
	// orphanGrace where the agent is gone.
	endGrace    = 5 * time.Second
	orphanGrace = time.Second
	// stateGrace is how long objects that are not set any more may take to be done
	// with their state.
	stateGrace = 5 * time.Second

	// The pauses between two dials of a next that is away grow from minDial to
	// maxDial.
	minDial = 5 * time.Millisecond
	maxDial = 250 * time.Millisecond
	// idleNext is how long an unused connection to next is kept. It is short, so
	// that next does not close one in the instant in which a call is written to it.
	idleNext = 5 * time.Second
	// maxTries bounds the tries of a call that fails at a next that accepts.
	maxTries = 3
	// replay bounds, in bytes, a body that is read at once, so that its call can
	// be sent again.
	replay = 64 << 10

	// maxProblem bounds a text that says why something failed, in bytes.
	maxProblem = 2 << 10
	// maxObserved bounds what an object is told of one call, in bytes of JSON.
	maxObserved = 2 << 20
	// maxRules bounds a rules file, maxWasm a module, in bytes.
	maxRules = bundle.MaxRulesBytes
	maxWasm  = 64 << 20
)
