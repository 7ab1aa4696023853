package agent

import (
	"time"

	"moult/agent/home"
)

const (
	// maxBundle bounds an injected bundle, in bytes.
	maxBundle = 16 << 30
	// maxLine bounds the line that a service manager gets of the node, in bytes.
	maxLine = 1 << 10
	// inboxSize bounds the messages that wait for the loop; senders wait.
	inboxSize = 256

	// logLines bounds what is kept of the log of software that failed, maxSigned the documents
	// of each kind that one set of metadata is noted to bring, and maxSighted the phases of
	// other nodes that wait to be written, and maxKept those that are at one time.
	logLines   = 20
	maxSigned  = 64
	maxSighted = 4096
	maxKept    = 5 * home.RecordsPerBatch

	documentTimeout = 5 * time.Second  // to fetch one document, before others are tried
	leaveTimeout    = 10 * time.Second // for the calls that are on when the agent ends and another follows
	objectsTimeout  = 30 * time.Second // for simulation objects to follow, before it is said
	tickInterval    = 500 * time.Millisecond
	stalledTicks    = 10 // so many of them without a byte, and the node says what it lacks
	persistInterval = 5 * time.Second
	minPause        = time.Second // between two tries of an action that must succeed
	maxPause        = 30 * time.Second
	rehearsalPause  = 5 * time.Minute // at most, between two tries of a rehearsal that cannot be made
	lookInterval    = 10 * time.Minute
	eventInterval   = 2 * time.Second  // between two looks at what somebody is to be told
	retireInterval  = 2 * time.Second  // between two counts of callers
	routePause      = time.Second      // between two tries of a routing that failed
	floodInterval   = 10 * time.Second // between two lines of what peers may repeat at will
)
