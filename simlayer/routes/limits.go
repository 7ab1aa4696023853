package routes

import "time"

const (
	dialTimeout = 5 * time.Second
	// IdleBackend is how long an unused connection to the software is kept. It
	// is short, so that the software does not close one in the instant in which
	// a call is written to it.
	IdleBackend = 2 * time.Second
)
