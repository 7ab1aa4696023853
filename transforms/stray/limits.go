package stray

import "time"

const (
	// rounds bounds the scans for processes to end: one that is being killed may
	// start another.
	rounds = 50
	// wait is how long each that was killed may take to end, per round.
	wait = 100 * time.Millisecond
	// execWait is how long a process may take to load another program, which nothing
	// tells the end of, before it counts as one without the entry.
	execWait = time.Second
)
