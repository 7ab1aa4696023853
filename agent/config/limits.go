package config

const (
	// maxFile bounds agent.hcl, in bytes.
	maxFile = 128 << 10
	// maxPort is the highest port there is.
	maxPort = 65535
)
