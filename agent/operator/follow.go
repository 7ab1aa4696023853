package operator

import (
	"context"
	"fmt"
	"slices"
	"time"

	"moult/agent/control"
	"moult/store/bundle"
)

// PollInterval is the time between two looks at a status that is followed.
const PollInterval = 300 * time.Millisecond

// Follow asks the agent until the rollout of a release (0: whatever is rolling)
// is complete, held or aborted, and shows each status to each, which may be nil.
// The last status seen is returned in any case, nil where none was. When ctx
// ends first, the error is its.
func Follow(ctx context.Context, api *control.Client, release bundle.Version, each func(control.Status)) (*control.Status, error) {
	tick := time.NewTicker(PollInterval)
	defer tick.Stop()
	var last *control.Status
	for {
		s, err := api.Status(ctx, false)
		if err != nil && ctx.Err() == nil {
			return last, err
		}
		if err == nil {
			last = &s
			if each != nil {
				each(s)
			}
			if done, err := finished(s, release); done {
				return last, err
			}
		}
		select {
		case <-ctx.Done():
			return last, ctx.Err()
		case <-tick.C:
		}
	}
}

// finished reports whether a wait for release (0: any) is over, and how.
func finished(s control.Status, release bundle.Version) (bool, error) {
	if s.Release.Version < release {
		return false, nil
	}
	// The metadata may name a newer release already, and the state is of that one.
	below := func(n control.NodeStatus) bool { return n.Standing == "" && n.Version < release }
	if release > 0 && s.Release.Version > release && len(s.Nodes) > 0 && !slices.ContainsFunc(s.Nodes, below) {
		return true, nil
	}
	switch s.Release.State {
	case control.StateComplete:
		return true, nil
	case control.StateNone:
		return true, &control.Error{Kind: control.KindFailed, Message: "wait for the rollout: no release has been handed in", Hint: "`moult inject --wait BUNDLE`"}
	case control.StateHeld:
		return true, control.Refused(fmt.Errorf("release %d is held: %s", s.Release.Version, s.Release.Reason), "`moult why NODE` tells more; `moult retry NODE` tries again")
	case control.StateAborted:
		return true, control.Refused(fmt.Errorf("release %d was aborted", s.Release.Version), "inject a newer release")
	}
	return false, nil
}
