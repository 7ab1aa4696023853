package config

const (
	// maxFile bounds agent.hcl, in bytes.
	maxFile = 128 << 10
	// maxVars bounds the variables.
	maxVars = 64
	// maxGroups bounds the supplementary groups; Linux takes 65,536.
	maxGroups = 64
	// maxPaths bounds the paths that programs are let to.
	maxPaths = 64
	// maxFilledArg and maxFilled bound, in bytes, an argument and a whole command line as
	// they are filled in; systems start no program with much more.
	maxFilledArg = 64 << 10
	maxFilled    = 128 << 10
	// maxPort is the highest port there is.
	maxPort = 65535
)
