package cgroup

const (
	// DefaultWeight is the share of the processors that a group has unless it is told another.
	DefaultWeight = 100
	maxWeight     = 10000
	// minMemory is the least that a group can be held to, in bytes.
	minMemory = 1 << 20
	// sharesPerWeight makes of a weight what version 1 calls shares, of which 1024 are usual;
	// minShares is the fewest that it takes.
	usualShares, minShares = 1024, 2
	// maxProcesses bounds those that are moved into a group one by one.
	maxProcesses = 1 << 16
)
