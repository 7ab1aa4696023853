package rehearse

import "time"

const (
	// lookBytes are received of a bundle before it is looked again whether the disk has room.
	lookBytes = 4 << 20
	// maxJob bounds the file that says what is to be done: commands and environments.
	maxJob = 64 << 20
	// maxNotes bounds the file of what was done, in bytes.
	maxNotes = 1 << 20
	// maxReason bounds the text of a failure, in bytes.
	maxReason = 1 << 10
	// maxOutput bounds what is kept of what a process of a rehearsal writes beside that.
	maxOutput = 4 << 10
	// niceness is how far the processes of a rehearsal give way to others.
	niceness = 10
	// maxMeminfo bounds what is read of /proc/meminfo, in bytes.
	maxMeminfo = 64 << 10
	// roomPoll is how often the machine's memory and disk are looked at.
	roomPoll = 200 * time.Millisecond
	// hold is how long a call of a check waits for what it calls.
	hold = 10 * time.Second
)

// DefaultTimeout is how long one may take of a class whose release says nothing of rehearsals.
const DefaultTimeout = time.Hour

// Reserve is how many bytes of the disk stay free for the software that runs meanwhile.
const Reserve = 256 << 20

// ReserveMemory is how many bytes of the machine's memory stay free likewise.
const ReserveMemory = 128 << 20

const (
	// rounds is how many copies of a state that changes meanwhile decide.
	rounds = 3
	// outputGrace is how long the output of a process may stay open after its end.
	outputGrace = 2 * time.Second
)
