package host

import (
	"time"

	"moult/store/bundle"
)

const (
	// defaultHold is how long calls wait for a next that is away.
	defaultHold = 30 * time.Second
	// defaultSilence is how long the object host may give no sign of life.
	defaultSilence = 2 * time.Second
	// lastLook is what is added where a sign of life may have come while this
	// process itself was not scheduled.
	lastLook = 500 * time.Millisecond
	// heartbeat is the time between two signs of life.
	heartbeat = 200 * time.Millisecond
	// defaultGrace is how long a process may take to end when asked to.
	defaultGrace = 5 * time.Second
	// orphanGrace is that of an object host whose agent is gone.
	orphanGrace = time.Second
	// readyTimeout bounds the time that the object host takes to begin, with all
	// that it compiles.
	readyTimeout = time.Minute

	// maxDefaultMemory bounds, in bytes, what the object host may write to where
	// nothing else is said: 32 instances of wasm at most, of 64 MiB, are half of it.
	maxDefaultMemory = 4 << 30
	// memoryShare of its bound, in percent, is where the object host begins to
	// collect garbage harder.
	memoryShare = 70

	// defaultStart is how long callers of an exec object may wait in its queue
	// before it has taken its first one; stallFactor times as long later on.
	defaultStart = 10 * time.Second
	stallFactor  = 3
	// lookPause is the time between two looks at the queues.
	lookPause = 100 * time.Millisecond

	// The pauses between restarts double from minPause to maxPause; a process
	// that was up for pauseReset starts afresh.
	minPause   = 100 * time.Millisecond
	maxPause   = 30 * time.Second
	pauseReset = time.Minute
	// quietPause is the longest pause through which callers simply wait.
	quietPause = time.Second

	// The pauses between two dials of a next that is away grow from minDial to
	// maxDial.
	minDial     = 5 * time.Millisecond
	maxDial     = 250 * time.Millisecond
	dialTimeout = 5 * time.Second
	// idleNext is how long an unused connection to next is kept. It is short, so
	// that next does not close one in the instant in which a call is written to it.
	idleNext = 5 * time.Second
	// maxTries bounds the tries of a call that fails at a next that accepts.
	maxTries = 3
	// replay bounds, in bytes, a body that is read at once, so that its call can
	// be sent again.
	replay = 64 << 10
	// refusedTimeout bounds the time that a caller who is refused takes to send a
	// whole call.
	refusedTimeout = time.Minute
	// retryAfter is what refused callers are told.
	retryAfter = time.Second

	// maxObjects bounds the objects of a Host: chains on both sides.
	maxObjects = 64
	// maxServices bounds the services of a node.
	maxServices = 32
	// maxFrame bounds one message on the control socket, in bytes.
	maxFrame = 4 << 20
	// maxPassed bounds the sockets that one message carries (SCM_MAX_FD is 253).
	maxPassed = 200
	// maxSocketPath is the longest path of a unix socket, on every system.
	maxSocketPath = 103
	// maxProblem bounds a text that says why something failed, in bytes.
	maxProblem = 2 << 10
	// maxObserved bounds what an object is told of one call, in bytes of JSON.
	maxObserved = 2 << 20
	// maxCarried bounds the connections by which an exec object calls a service of its
	// next at once: each takes two descriptors of the agent's.
	maxCarried = 4096
	// maxRefused bounds the connections that are being refused at once.
	maxRefused = 256
	// maxRules bounds a rules file, maxWasm a module, in bytes.
	maxRules = bundle.MaxRulesBytes
	maxWasm  = 64 << 20

	// maxSessions bounds the callers of one UDP address, sessionIdle how long
	// one that sends nothing is remembered; maxPacket is a packet's length.
	maxSessions = 1024
	sessionIdle = time.Minute
	maxPacket   = 64 << 10

	// maxLine bounds a line of output, in bytes; linesPerSecond and lineBurst
	// how many are logged.
	maxLine        = 2 << 10
	linesPerSecond = 20
	lineBurst      = 50
	// maxWords bounds what is repeated of it where a process has ended, in bytes.
	maxWords = 200

	// maxTable bounds what is read of the kernel's table of sockets, in bytes.
	maxTable = 16 << 20

	// strayWait is how long the output of a program that has ended is read on: what
	// it left behind may hold it open.
	strayWait = 100 * time.Millisecond
)
