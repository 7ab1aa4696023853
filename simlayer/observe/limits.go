package observe

import "time"

const (
	// MaxBody bounds what an object is told of one body, and maxHeader of the headers
	// of one side, in bytes.
	MaxBody   = 64 << 10
	maxHeader = 64 << 10
	// MaxWaiting bounds the calls that wait to be told to one object, and maxBytes
	// their bytes.
	MaxWaiting = 1024
	maxBytes   = 16 << 20
	// bodyWait is how long the telling waits for the rest of an answer.
	bodyWait = time.Second
	// Patience is how long callers of the object wait until it was told of what was
	// before them.
	Patience = 5 * time.Second
	// retryAfter is what they are told then.
	retryAfter = time.Second
	// tellTimeout bounds the time that an object takes for one event. The pauses
	// between tries grow from the first to the second; after tellTries that broke off
	// the event is given up.
	tellTimeout = 30 * time.Second
	minPause    = 10 * time.Millisecond
	tellPause   = time.Second
	tellTries   = 5
	// maxReason bounds what an object says of why it does not take an event in, in
	// bytes.
	maxReason = 1 << 10
)
