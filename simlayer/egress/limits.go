package egress

import "time"

// User is the name that goes with Config.Secret.
const User = "moult"

const (
	// maxReplay bounds the body of a call to a peer that is kept to be sent again,
	// in bytes. A longer one is sent once.
	maxReplay = 1 << 20
	// maxTries is how often a call is sent to a peer that takes connections.
	maxTries = 3
	// The pauses between tries grow from the first to the second.
	minPause = 10 * time.Millisecond
	maxPause = 250 * time.Millisecond
	// retryAfter is what callers are told whose call may pass later.
	retryAfter = time.Second

	// dialTimeout is long: destinations may be far away.
	dialTimeout = 30 * time.Second
	// headTimeout bounds the time that a caller takes to send a head, or what comes
	// before the first call by SOCKS5.
	headTimeout = time.Minute
	// replyTimeout bounds the time that a caller by SOCKS5 takes to read a reply.
	replyTimeout = 5 * time.Second
	// idleTimeout is how long a connection to a peer is kept that nobody uses, and
	// maxIdle and maxIdlePerHost how many.
	idleTimeout    = 30 * time.Second
	maxIdle        = 1024
	maxIdlePerHost = 64

	// linger is how long a caller by SOCKS5 that was refused has to end, and
	// maxLinger bounds what is read of it meanwhile, in bytes.
	linger    = time.Second
	maxLinger = 1 << 20
)

// Quota counts connections. Enter reports false where there are too many; Leave
// follows all the same.
type Quota interface {
	Enter() bool
	Leave()
}
