package process

import "time"

const (
	// defaultLogMax and defaultLogKeep bound the output that is kept: bytes of
	// one file, and how many old files besides it.
	defaultLogMax  = 16 << 20
	defaultLogKeep = 4
	// logPoll is the time between two looks at the log's length.
	logPoll = 5 * time.Second
	// logCatchUp bounds how often what was written during a rotation is
	// copied after it.
	logCatchUp = 100
	// maxTail bounds what LogTail returns, in bytes.
	maxTail = 64 << 10

	// maxSockets bounds what the software inherits.
	maxSockets = 128

	// readyPoll is the first pause between two checks for readiness. It grows
	// to the health check's interval: calls are held meanwhile.
	readyPoll = 20 * time.Millisecond
	// defaultInterval and defaultDeadline stand in where health leaves them out.
	defaultInterval = 5 * time.Second
	defaultDeadline = 5 * time.Minute
	// minCheck and maxCheck bound the time that one check may take.
	minCheck = 1 * time.Second
	maxCheck = 10 * time.Second
	// minWatch is the least time between two checks of software that is up: they go
	// on for as long as it runs.
	minWatch = 5 * time.Second
	// minTaken and maxTaken bound the pause between two looks whether the software has
	// accepted a connection.
	minTaken = time.Millisecond
	maxTaken = 100 * time.Millisecond
	// failuresMax failed checks in a row make a process unhealthy.
	failuresMax = 3
	// maxCheckOutput bounds what is read of a check's answer, in bytes.
	maxCheckOutput = 4 << 10

	// maxNotify bounds one message of sd_notify, in bytes.
	maxNotify = 4 << 10
	// maxSocketPath is the longest path of a unix socket, on every system.
	maxSocketPath = 103
	// maxRecord bounds the file that says that READY=1 came, in bytes.
	maxRecord = 4 << 10

	// killWait is how long a killed process may take to end.
	killWait = 30 * time.Second
	// orphanGrace is how long a process of an earlier agent may take to end
	// after SIGTERM.
	orphanGrace = 10 * time.Second

	// The back-off between restarts doubles from minBackoff to maxBackoff; a
	// process that was up, and ready, for backoffReset starts afresh.
	minBackoff   = 1 * time.Second
	maxBackoff   = 30 * time.Second
	backoffReset = 1 * time.Minute
)
