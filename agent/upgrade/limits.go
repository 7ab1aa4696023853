package upgrade

const (
	// maxState bounds a saved State, in bytes.
	maxState = 1 << 20
	// maxReason bounds the text of a failure that is kept and published, in bytes.
	maxReason = 1024
)
