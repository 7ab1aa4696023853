package membership

const (
	// MaxBytes bounds the JSON of a membership.
	MaxBytes = 8 << 20
	// MaxMembers bounds the nodes that are enrolled by name, as many as a view has.
	MaxMembers = 20_000
	// MaxEvicted bounds the nodes that are evicted.
	MaxEvicted = 20_000
	// MaxHosts bounds the hosts of one member.
	MaxHosts = 16
	// MaxTokens bounds the join tokens in force.
	MaxTokens = 16

	// maxProblems bounds how many problems one error reports.
	maxProblems = 8
)
