package selfupdate

import "time"

const (
	// MaxStarts is how often in a row a confirmed build may end before it was up.
	MaxStarts = 3
	// DefaultDeadline is how long a build on trial has until it is well.
	DefaultDeadline = 2 * time.Minute
	// maxInterrupted is how often a build is tried again whose trial was interrupted.
	maxInterrupted = 3
	// MaxBuild bounds a build's file, in bytes.
	MaxBuild = 512 << 20

	maxState  = 64 << 10  // bytes of state.json
	maxFailed = 8         // failures that are kept
	maxReason = 600       // bytes of a failure's reason
	leftOver  = time.Hour // after which a folder that was being made is a dead agent's
	keptTries = 2         // builds that are kept beside the one that is confirmed

	// A check of a build that does not run yet.
	checkTime   = time.Minute
	checkMemory = 1 << 30  // bytes that it may write to
	checkOutput = 64 << 10 // bytes of its output

	// A trial: it is asked every probeEvery, and waited for probeTime each time; it is well
	// when it was probes times in a row.
	probeEvery = 500 * time.Millisecond
	probeTime  = 20 * time.Second
	probes     = 6
	// stopTime is how long a build that was well has to end when it is asked to.
	stopTime = 30 * time.Second
	// lockWait bounds the wait for a lock that a process still holds which has just been
	// killed, and orphanWait that for a build on trial whose parent has died.
	lockWait   = 3 * time.Second
	lockPause  = 20 * time.Millisecond
	orphanWait = 10 * time.Second
	maxPID     = 64 // bytes of a lock file
)
