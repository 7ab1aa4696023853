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
	// PathTo), whether that is rehearsed first, and by which manifests of it, and of the
	// release that runs.
	Target struct {
		Goal      bundle.Version
		Path      []bundle.Version
		Rehearse  bool
		Manifests map[bundle.Version]bundle.Chunk
	}
	// Turn says at which turn the order of Release is: an odd one takes it back, and an even
	// one goes forward again. Before is the release whose software ran before it, and
	// Manifests are by which it and what runs are meant.
	Turn struct {
		Release   bundle.Version
		Turn      int
		Before    bundle.Version
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
	// Finalize says that the release at which the node has settled will not be taken back: Alone,
	// by the release's own word, and not by one that every peer has.
	Finalize struct {
		Release bundle.Version
		Alone   bool
	}
	// Go says that the schedule lets the node go down for Goal.
	Go struct{ Goal bundle.Version }
	// MayRehearse says that the schedule lets the node rehearse for Goal, Interrupt that it
	// does no more: a rehearsal under way is given up, and begins anew when it may.
	MayRehearse struct{ Goal bundle.Version }
	Interrupt   struct{}

	// Staged answers Fetch.
	Staged struct{ Step uint64 }
	// Rehearsed answers Rehearse: all went well, but for what Reason says. Took and Down are
	// as in view.Rehearsal.
	Rehearsed struct {
		Step       uint64
		Reason     string
		Took, Down bundle.Duration
	}
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
	// Finalized answers Finish.
	Finalized struct{ Step uint64 }
	// RolledBack answers Rollback. A Reason says that the old software,
	// though started, is not healthy.
	RolledBack struct {
		Step   uint64
		Reason string
	}
	// Failed answers any action that could not be done. Later is true where
	// the transform asked to be tried again another time, or something that was fetched
	// is not here any more. Unable is true where a rehearsal could not be made, which says
	// nothing against the release, and Took is how long one took that was.
	Failed struct {
		Step          uint64
		Reason        string
		Later, Unable bool
		Took          bundle.Duration
	}
)

func (Begin) event()       {}
func (Target) event()      {}
func (Turn) event()        {}
func (Closed) event()      {}
func (Withdrawn) event()   {}
func (Retry) event()       {}
func (Soaked) event()      {}
func (SoakFailed) event()  {}
func (Finalize) event()    {}
func (Finalized) event()   {}
func (Go) event()          {}
func (MayRehearse) event() {}
func (Interrupt) event()   {}
func (Reminded) event()    {}
func (Staged) event()      {}
func (Rehearsed) event()   {}
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
	// Rehearse runs all of Path on a copy of the state of From, whose software it does
	// not disturb. So often before it could not be made: the more often, the longer the
	// pause before it is tried.
	Rehearse struct {
		Step   uint64
		From   bundle.Version
		Path   []bundle.Version
		Before int
	}
	// Drain holds new calls, lets those in flight end, and stops the software
	// of release Version. Failed means that the software was not to be stopped, by its own
	// word, and that nothing was done yet; after that, what does not end is killed.
	Drain struct {
		Step    uint64
		Version bundle.Version
	}
	// Transform makes the slot of To from that of From, which it leaves
	// untouched. From 0: an empty slot. From a later release: that is taken back.
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
	// Finish carries out that release Version will not be taken back, beside its software,
	// which goes on. A newer target ends it.
	Finish struct {
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

// Reverse reports whether it takes release From back.
func (t Transform) Reverse() bool { return t.To < t.From }

func (Run) action()       {}
func (Fetch) action()     {}
func (Rehearse) action()  {}
func (Drain) action()     {}
func (Transform) action() {}
func (Launch) action()    {}
func (Admit) action()     {}
func (Probe) action()     {}
func (Settle) action()    {}
func (Finish) action()    {}
func (Rollback) action()  {}
