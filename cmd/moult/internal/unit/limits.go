package unit

const (
	// maxFile bounds a file of a unit, and of an environment, in bytes.
	maxFile = 1 << 20
	// maxFiles bounds those of one unit.
	maxFiles = 256
	// maxAnswer bounds what systemctl says, in bytes.
	maxAnswer = 1 << 20
)
