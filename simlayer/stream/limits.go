package stream

import "time"

// The pauses after failures to accept grow from the first to the second.
const (
	minPause = 10 * time.Millisecond
	maxPause = 250 * time.Millisecond
)

const (
	// BufferSize is how much a Reader reads at a time, in bytes.
	BufferSize = 16 << 10
	// SpliceFrom is the length, in bytes, from which it is worth while to Move them.
	SpliceFrom = 32 << 10
	// spliceMost is how much of an unknown number Pump moves so at a time.
	spliceMost = 1 << 20
	// pumpLarge is after how many full buffers a flow counts as large.
	pumpLarge = 4
)
