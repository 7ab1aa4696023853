package host

import "time"

const (
	// defaultHold is how long calls wait for a next that is away.
	defaultHold = 30 * time.Second
	// defaultSilence is how long the object host may give no sign of life.
	defaultSilence = 2 * time.Second
	// lastLook is what is added where a sign of life may have come while this
	// process itself was not scheduled.
	lastLook = 500 * time.Millisecond
	// busyFactor times as long may an object host be silent that works, or would if
	// the machine were not busy: it may be given memory, for instance, page by page.
	busyFactor = 10
	// defaultGrace is how long a process may take to end when asked to.
	defaultGrace = 5 * time.Second
	// controlGrace is how long an object host whose control socket has failed may take
	// to end.
	controlGrace = 2 * time.Second
	// refusalGrace is how long who is being refused has to be told, once the object
	// takes calls again.
	refusalGrace = time.Second
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

	// The pauses between restarts double from minPause to maxPause.
	minPause = 100 * time.Millisecond
	maxPause = 30 * time.Second
	// The pauses between two dials of a next that is away grow from minDial to
	// maxDial.
	minDial = 5 * time.Millisecond
	maxDial = 250 * time.Millisecond
	// refusedTimeout bounds the time that a caller who is refused takes to send a
	// whole call.
	refusedTimeout = time.Minute

	// maxObjects bounds the objects of a Host: chains on both sides.
	maxObjects = 64
	// maxServices bounds the services of a node.
	maxServices = 32
	// maxSocketPath is the longest path of a unix socket, on every system.
	maxSocketPath = 103
	// maxProblem bounds a text that says why something failed, in bytes.
	maxProblem = 2 << 10
	// maxCarried bounds the connections by which an exec object calls a service of its
	// next at once: each takes two descriptors of the agent's.
	maxCarried = 4096
	// maxRefused bounds the connections that are being refused at once.
	maxRefused = 256

	// maxSessions bounds the callers of one UDP address, sessionIdle how long
	// one that sends nothing is remembered; maxPacket is a packet's length.
	maxSessions = 1024
	sessionIdle = time.Minute
	maxPacket   = 64 << 10

	// maxTable bounds what is read of the kernel's table of sockets, in bytes.
	maxTable = 16 << 20
)
