package proxy

import "time"

const (
	// headTimeout bounds the time that a caller takes to send a head.
	headTimeout = time.Minute
	// maxHead bounds the head of a request or a response, in bytes.
	maxHead = 1 << 20
	// maxIdle bounds the connections of a transport that nobody uses.
	maxIdle = 1024
	// expectTimeout is how long a body waits for the word to come.
	expectTimeout = time.Second

	copyBuffer = 32 << 10
	// StreamFrom is the length from which a response is passed on in the pieces
	// in which it comes, in bytes. What is shorter goes in one piece.
	StreamFrom = 4 << 10
)
