package stray

import "time"

const (
	// rounds bounds the scans for processes to end: one that is being killed may
	// start another.
	rounds = 50
	// wait is how long each that was killed may take to end, per round.
	wait = 100 * time.Millisecond
)
