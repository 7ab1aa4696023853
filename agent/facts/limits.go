package facts

import "time"

const (
	// maxAnswer bounds what is read of an answer by HTTP, maxOutput of a program's: bytes.
	maxAnswer = 1 << 20
	maxOutput = 4 << 10
	// maxSaid bounds what a reason repeats of an answer.
	maxSaid = 60
	// minTell is the least time between two tellings, beside the first.
	minTell = time.Second
)
