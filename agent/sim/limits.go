package sim

import "time"

const (
	// nodes is how many nodes a cluster has, late joiners included.
	nodes = 20
	// maxRelease is the newest release that the operator ever injects; an
	// operator who aborted a rollout needs one more to end it.
	maxRelease = 6
	// maxSteps bounds the events of one run.
	maxSteps = 2_000_000
	// lastEvents is how many events a failure prints.
	lastEvents = 60

	// tail is how many writes the loss of the floor file may cost, at most.
	tail = 8

	// chaos is how long faults are injected; then everything is repaired.
	chaos = 200 * time.Second
	// patience is how long, once faults have stopped, all nodes may take to
	// settle at the newest release and all views to become equal.
	patience = 20 * time.Minute
	// brief is how long after that a run goes on in which a release is frozen.
	brief = 2 * time.Minute

	// What the agent does regularly. Its tick is shorter; decisions are taken
	// after every event, so a tick matters to soak times and retries only.
	tickInterval    = 3 * time.Second
	syncInterval    = 15 * time.Second
	rumourInterval  = 500 * time.Millisecond
	persistInterval = 5 * time.Second
	callInterval    = 2 * time.Second
	// quiet is how long nobody must have called for an object to be retired. Those who
	// call from outside, as the writes of host.call, call as the node's own version.
	quiet = 10 * time.Second

	// operatorInterval is how often the operator does something, on average.
	operatorInterval = 12 * time.Second
	// attendInterval is how often, once faults have stopped, the operator looks
	// at the status of some peer, and mends what it shows.
	attendInterval = 10 * time.Second
	// maxRetries is how often the operator retries one node after that, before
	// it is skipped.
	maxRetries = 3
	// maxUnwell is how often the operator then looks at a node that has settled and is
	// not well, before it is skipped.
	maxUnwell = 20
)
