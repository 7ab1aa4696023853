package child

import "time"

const (
	// pauseReset is how long a process must be up for its pauses to begin afresh.
	pauseReset = time.Minute
	// quietPause is the longest pause through which callers simply wait.
	quietPause = time.Second

	// maxProblem bounds a text that says why a process ended, in bytes.
	maxProblem = 2 << 10

	// maxLine bounds a line of output, in bytes; linesPerSecond and lineBurst
	// how many are logged.
	maxLine        = 2 << 10
	linesPerSecond = 20
	lineBurst      = 50
	// maxWords bounds what is repeated of it where a process has ended, in bytes.
	maxWords = 200

	// strayWait is how long the output of a program that has ended is read on: what
	// it left behind may hold it open.
	strayWait = 100 * time.Millisecond

	// unknownMemory is taken for the machine's where that is not known, in bytes.
	unknownMemory = 8 << 30
)
