package transforms

import "time"

const (
	// maxTail bounds the output of a program that is kept for its error, in bytes.
	maxTail = 64 << 10
	// maxErrorTail bounds how much of that an error's text shows, in bytes.
	maxErrorTail = 1 << 10
	// maxLogLine and maxLogLines bound what a program can put into the log, in
	// bytes and lines. Runner.Output gets everything.
	maxLogLine  = 1 << 10
	maxLogLines = 500
	// maxAttribute bounds an extended attribute, and the list of a file's, in bytes, as
	// Linux does.
	maxAttribute = 64 << 10
	// maxLinkTarget bounds a symbolic link's text, in bytes.
	maxLinkTarget = 4096

	// copyWorkers is how many files are copied at once.
	copyWorkers = 4
	// copyStep is how many bytes are copied between two looks at the context.
	copyStep = 32 << 20

	// liveRounds is how often a live state is copied, for a copy during which it does not
	// change.
	liveRounds = 3

	// sampleFiles files, of each up to sampleFileBytes, and sampleBytes of the largest are
	// copied to estimate how long the whole takes; and a transform goes estimateWalks times
	// through old or new state beside it.
	sampleFiles     = 512
	sampleFileBytes = 64 << 10
	sampleBytes     = 64 << 20
	estimateWalks   = 4

	// diskReserve is how many bytes must stay free for everything else on the
	// disk, the agent's own database first of all.
	diskReserve = 64 << 20
	// diskPoll is the time between two measurements of the new slot; for a
	// large one it is diskPollShare times what a measurement takes.
	diskPoll      = 100 * time.Millisecond
	diskPollShare = 20

	// syncFilesMax is how many files are synced one by one; above it the whole
	// file system is synced at once, where the system can.
	syncFilesMax = 256

	// pipeGrace is how long a program's output may stay open after its end.
	pipeGrace = 2 * time.Second
)
