package control

import "time"

const (
	// maxTrial bounds the time that a build of the agent can be given to be well.
	maxTrial = time.Hour
	// maxDocument bounds every JSON body in either direction, in bytes: a
	// status of 20,000 nodes is below it.
	maxDocument = 64 << 20
	// maxOrders bounds the part of an injection that carries signed metadata.
	maxOrders = 32 << 20
	// maxWhat bounds the lines that a Deed says of what it asked for, and maxWhatText each, in
	// bytes.
	maxWhat     = 16
	maxWhatText = 256
	// maxSocketPath is what the kernel takes for a unix socket's path, in bytes.
	maxSocketPath = 104

	// minToken and maxToken bound the token of the API on TCP, in bytes; the latter
	// with the blanks around it.
	minToken, maxToken = 16, 4 << 10

	readHeaderTimeout = 10 * time.Second
	idleTimeout       = time.Minute
	newsTimeout       = 10 * time.Second // for a caller of a rehearsal to take one line, or to send a piece of the bundle
	// leastRate is how much of a bundle that is to be rehearsed must come a second, in bytes,
	// after uploadGrace: only one is rehearsed at a time.
	leastRate   = 256 << 10
	uploadGrace = time.Minute
)
