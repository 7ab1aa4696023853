package notify

import "time"

const (
	// maxRun is how long the command may take for one event; then its process group is
	// killed.
	maxRun = 30 * time.Second
	// maxWaiting bounds the events that wait for the command.
	maxWaiting = 64
	// maxTold bounds the conditions that are kept as told.
	maxTold = 512
	// maxText bounds what an event says for people, in bytes.
	maxText = 4 << 10
	// maxLedger bounds the file of what was told, in bytes: as many texts, and all else.
	maxLedger = 8 << 20
	// steadyTime is how long a condition must hold before it is told, and be gone before
	// that is told: an agent that has just begun does not hear its peers yet.
	steadyTime = 5 * time.Second
	// graceTime is how long an agent looks before it says that what an earlier one has told,
	// and it has not seen itself, is gone. It is above what finding an alarm again may take:
	// software that is adopted is unready only after its healthy_deadline (5 minutes, if
	// nobody says another) and a few checks, and a state is measured in the background.
	graceTime = 10 * time.Minute
)
