package selfupdate

import "time"

const (
	// MaxStarts is how often in a row a confirmed build may end before it was up.
	MaxStarts = 3
	// DefaultDeadline is how long a build on trial has until it is well.
	DefaultDeadline = 2 * time.Minute
	// MaxBuild bounds a build's file, in bytes.
	MaxBuild = 512 << 20

	maxState  = 64 << 10 // bytes of state.json
	maxFailed = 8        // failures that are kept
	maxReason = 600      // bytes of a failure's reason
	keptTries = 2        // builds that are kept beside the one that is confirmed
)
