package web

import "time"

const (
	// maxStreams is how many pages are told of news at once, and maxConns how many
	// connections there are, for all that they are for.
	maxStreams = 16
	maxConns   = 64

	maxHeader  = 16 << 10 // of a request, in bytes
	maxRequest = 4 << 10  // of its body, in bytes

	headerTimeout = 5 * time.Second
	bodyTimeout   = 5 * time.Second
	idleTimeout   = time.Minute
	// writeTimeout is how long a browser may take for one piece of news, or an answer.
	writeTimeout = 10 * time.Second
	// askTimeout bounds a question to the agent, and orderTimeout an order.
	askTimeout   = 10 * time.Second
	orderTimeout = time.Minute
	// keepAlive is how often a stream without news says that it is there.
	keepAlive = 15 * time.Second

	// defaultEvery is the time between two questions to the agent; they are rarer where an
	// answer takes more than a quarter of it.
	defaultEvery = 250 * time.Millisecond

	// maxSpans bounds the phases that are kept of a node, the oldest going first.
	maxSpans = 48
)
