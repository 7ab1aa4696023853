package every

const (
	// mostNodes is the most nodes that a small world has, mostReleases the most releases
	// that are rolled out in it.
	mostNodes    = 3
	mostReleases = 2
	// mostStates is how many states a test visits at most. A state takes about 150 bytes.
	mostStates = 6_000_000
)
