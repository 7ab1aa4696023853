package upgrade

import "moult/store/bundle"

// Event is something that happened. Events that answer an action carry its
// Step; the machine ignores answers to an action that it no longer waits for.
type Event interface{ event() }

type (
	// Begin says that a node with adopted software, which has never served
	// under moult, shall serve as it is: there is no newer release to take first.
	Begin struct{}
	// Target says which release the node shall work towards, by which path (see
	// PathTo), and by which manifests of that, and of the release that runs.
	Target struct {
		Goal      bundle.Version
		Path      []bundle.Version
		Manifests map[bundle.Version]bundle.Chunk
	}
	// Closed says that the goal is no longer to be worked towards (its
	// rollout was aborted, or found to be in conflict).
	Closed struct{ Reason string }
	// Withdrawn says that the attempt under way uses a release which the operator has
	// withdrawn, so that it must not be ended. What was admitted stays.
	Withdrawn struct{ Reason string }
	// Retry says that the rollout order gives a held node another attempt at
	// the release that it failed.
	Retry struct{ Release bundle.Version }
	// Reminded says what peers have heard this node say: its data folder may be
	// older than that. Version and all else in it never take effect as lower.
	Reminded struct{ Promises }
	// Soaked says that the software of Release, settled, was well throughout its soak.
	Soaked struct{ Release bundle.Version }
	// SoakFailed says that it was not, when the rollout order had so many Places for
	// this node.
	SoakFailed struct {
		Release bundle.Version
		Places  int
	}
	// Go says that the schedule lets the node go down for Goal.
	Go struct{ Goal bundle.Version }

	// Staged answers Fetch.
	Staged struct{ Step uint64 }
	// Drained answers Drain: the old software has ended.
	Drained struct{ Step uint64 }
	// Transformed answers Transform.
	Transformed struct {
		Step uint64
		To   bundle.Version
	}
	// Ready answers Launch: the new software passes its health check.
	Ready struct{ Step uint64 }
	// Admitted answers Admit: callers reach the new software.
	Admitted struct{ Step uint64 }
	// Healthy answers Probe.
	Healthy struct{ Step uint64 }
	// Recorded answers Settle.
	Recorded struct{ Step uint64 }
	// RolledBack answers Rollback. A Reason says that the old software,
	// though started, is not healthy.
	RolledBack struct {
		Step   uint64
		Reason string
	}
	// Failed answers any action that could not be done. Later is true where
	// the transform asked to be tried again another time.
	Failed struct {
		Step   uint64
		Reason string
		Later  bool
	}
)

func (Begin) event()       {}
func (Target) event()      {}
func (Closed) event()      {}
func (Withdrawn) event()   {}
func (Retry) event()       {}
func (Soaked) event()      {}
func (SoakFailed) event()  {}
func (Go) event()          {}
func (Reminded) event()    {}
func (Staged) event()      {}
func (Drained) event()     {}
func (Transformed) event() {}
func (Ready) event()       {}
func (Admitted) event()    {}
func (Healthy) event()     {}
func (Recorded) event()    {}
func (RolledBack) event()  {}
func (Failed) event()      {}

// Action is something that the driver must do, after the state that asked for
// it is durable. Every action may be repeated after a crash, at any point of
// its own progress, with the same outcome. An action is answered by its event
// or by Failed; a newer action supersedes one that is still under way.
type Action interface{ action() }

type (
	// Run keeps the software of release Version up: adopts it where it is
	// still running, else starts it, and starts it again when it ends. It has
	// no answer.
	Run struct{ Version bundle.Version }
	// Fetch makes every artifact of Path ready on this peer. It retries by
	// itself; Failed means that it cannot succeed.
	Fetch struct {
		Step uint64
		Path []bundle.Version
	}
	// Drain holds new calls, lets those in flight end, and stops the software
	// of release Version. It does not fail: what does not end is killed.
	Drain struct {
		Step    uint64
		Version bundle.Version
	}
	// Transform makes the slot of To from that of From, which it leaves
	// untouched. From 0: an empty slot.
	Transform struct {
		Step     uint64
		From, To bundle.Version
	}
	// Launch starts the software of Version on its own slot (or adopts it) and
	// waits until it is ready. Calls stay held.
	Launch struct {
		Step    uint64
		Version bundle.Version
	}
	// Admit makes Version's slot the current one, durably, adopts or starts its
	// software where it does not run, and lets calls in.
	Admit struct {
		Step    uint64
		Version bundle.Version
	}
	// Probe watches the software of Version for its minimum healthy time.
	Probe struct {
		Step    uint64
		Version bundle.Version
	}
	// Settle records durably that the node is at Version and publishes it.
	Settle struct {
		Step    uint64
		Version bundle.Version
	}
	// Rollback stops the software of From, if it runs, and brings back that of
	// To on its untouched slot. To 0: there was none.
	Rollback struct {
		Step     uint64
		From, To bundle.Version
	}
)

func (Run) action()       {}
func (Fetch) action()     {}
func (Drain) action()     {}
func (Transform) action() {}
func (Launch) action()    {}
func (Admit) action()     {}
func (Probe) action()     {}
func (Settle) action()    {}
func (Rollback) action()  {}
