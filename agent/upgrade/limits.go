package upgrade

const (
	// maxState bounds a saved State, in bytes.
	maxState = 1 << 20
	// maxReason bounds the text of a failure that is kept and published, in bytes.
	maxReason = 1024
	// maxUnable is how often a rehearsal is tried that cannot be made: an operator must
	// hear of it, and the others wait.
	maxUnable = 12
)
