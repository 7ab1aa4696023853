package stream

import "time"

// The pauses after failures to accept grow from the first to the second.
const (
	minPause = 10 * time.Millisecond
	maxPause = 250 * time.Millisecond
)
