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

// agentAway bounds how many looks in a row the agent that is asked may not answer, since it is
// being replaced.
const agentAway = int(5 * time.Minute / PollInterval)

// Goal is what a rollout is followed to: that of Release (0: whatever is rolling), or where
// Back is set, that it is taken back.
type Goal struct {
	Release bundle.Version
	Back    bool
}

// Follow asks the agent until the rollout is complete, held or aborted, or leads to the
// goal no more, and shows each status to each, which may be nil. While agents are replaced the
// one that is asked may be away for as long as a trial lasts.
// The last status seen is returned in any case, nil where none was. When ctx
// ends first, the error is its.
func Follow(ctx context.Context, api *control.Client, goal Goal, each func(control.Status)) (*control.Status, error) {
	tick := time.NewTicker(PollInterval)
	defer tick.Stop()
	var last *control.Status
	away := 0
	for {
		s, err := api.Status(ctx, false)
		if err != nil && ctx.Err() == nil {
			if away++; away > agentAway || last == nil || last.Release.Agents == nil || last.Release.Agents.Done == last.Release.Agents.Total {
				return last, err
			}
		}
		if err == nil {
			last, away = &s, 0
			if each != nil {
				each(s)
			}
			if done, err := finished(s, goal); done {
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

// finished reports whether a wait is over, and how.
func finished(s control.Status, goal Goal) (bool, error) {
	release, r := goal.Release, s.Release
	if r.Version < release {
		return false, nil
	}
	// The metadata may name a newer release already, and the state is of that one.
	below := func(n control.NodeStatus) bool { return n.Standing == "" && n.Version < release }
	if release > 0 && r.Version > release && !goal.Back && len(s.Nodes) > 0 && !slices.ContainsFunc(s.Nodes, below) {
		return true, nil
	}
	if release > 0 && r.Version > release && goal.Back {
		return true, control.Refused(fmt.Errorf("release %d is not taken back any more: release %d takes its place", release, r.Version), "`moult status --wait` waits for that one")
	}
	if release > 0 && r.Version == release && r.Back() != goal.Back && r.State != control.StateNone {
		return true, turnedAway(r)
	}
	switch r.State {
	case control.StateComplete:
		return agentsFinished(r)
	case control.StateNone:
		return true, &control.Error{Kind: control.KindFailed, Message: "wait for the rollout: no release has been handed in", Hint: "`moult inject --wait BUNDLE`"}
	case control.StateHeld:
		return true, control.Refused(fmt.Errorf("release %d is held: %s", r.Version, r.Reason), "`moult why NODE` tells more; `moult retry NODE` tries again")
	case control.StateAborted:
		if r.Back() {
			return true, control.Refused(fmt.Errorf("the way back from release %d was aborted", r.Version), fmt.Sprintf("`moult revert --undo %d` goes forward again; or inject a newer release", r.Version))
		}
		return true, control.Refused(fmt.Errorf("release %d was aborted", r.Version), "inject a newer release")
	}
	return false, nil
}

// agentsFinished is what the wait for a release that is complete has still to wait for.
func agentsFinished(r control.ReleaseStatus) (bool, error) {
	a := r.Agents
	switch {
	case a == nil || r.Back() || a.Done == a.Total:
		return true, nil
	case len(a.Failed) >= a.Budget || a.Done+len(a.Failed) == a.Total:
		return true, control.Refused(fmt.Errorf("release %d is complete, but not at the agents: %s", r.Version, a.Words), "`moult status` of a node that put it back has an alarm that says why")
	}
	return false, nil
}

// turnedAway tells that the operator has turned the rollout that is waited for.
func turnedAway(r control.ReleaseStatus) error {
	if r.Back() {
		return control.Refused(fmt.Errorf("release %d is taken back", r.Version), fmt.Sprintf("`moult status --wait` waits until it is; `moult revert --undo %d` goes forward again", r.Version))
	}
	return control.Refused(fmt.Errorf("release %d is not taken back any more: it goes forward again", r.Version), "`moult status --wait` waits until it has")
}
