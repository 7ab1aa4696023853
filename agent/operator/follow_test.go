package operator

import (
	"errors"
	"testing"

	"moult/agent/control"
	"moult/store/bundle"
)

// What a wait is for, and how it ends.
func TestFinished(t *testing.T) {
	status := func(head bundle.Version, state string, versions ...bundle.Version) (s control.Status) {
		s.Release = control.ReleaseStatus{Version: head, State: state}
		for _, v := range versions {
			s.Nodes = append(s.Nodes, control.NodeStatus{Version: v})
		}
		return s
	}
	agents := func(done, failed int, s control.Status) control.Status {
		s.Release.Agents = &control.AgentsStatus{Total: 5, Done: done, Budget: 2, Failed: make([]string, failed)}
		return s
	}
	turned := func(turn int, s control.Status) control.Status { s.Release.Turn = turn; return s }
	for _, c := range []struct {
		name    string
		s       control.Status
		release bundle.Version
		done    bool
		refused bool
		back    bool
	}{
		{"nothing there", status(0, control.StateNone), 0, true, true, false},
		{"not here yet", status(1, control.StateComplete, 1, 1), 2, false, false, false},
		{"under way", status(2, control.StateRolling, 2, 1), 2, false, false, false},
		{"all have it", status(2, control.StateComplete, 2, 2), 2, true, false, false},
		{"held", status(2, control.StateHeld, 1, 1), 2, true, true, false},
		{"aborted", status(2, control.StateAborted, 1, 1), 2, true, true, false},
		{"a newer one is signed, and all have this", status(2, control.StateSpreading, 1, 1), 1, true, false, false},
		{"a newer one is signed, and one has not this", status(2, control.StateSpreading, 1, 0), 1, false, false, false},
		{"a newer one has failed, and all have this", status(3, control.StateHeld, 2, 3), 2, true, false, false},
		{"taken back, and that was wanted", turned(1, status(2, control.StateComplete, 1, 1)), 2, true, false, true},
		{"on its way back, and that is wanted", turned(1, status(2, control.StateRolling, 2, 1)), 2, false, false, true},
		{"taken back meanwhile", turned(1, status(2, control.StateRolling, 2, 1)), 2, true, true, false},
		{"forward again meanwhile", turned(2, status(2, control.StateRolling, 2, 1)), 2, true, true, true},
		{"forward again", turned(2, status(2, control.StateComplete, 2, 2)), 2, true, false, false},
		{"whatever there is, and it is taken back", turned(1, status(2, control.StateComplete, 1, 1)), 0, true, false, false},
		{"the way back is aborted", turned(1, status(2, control.StateAborted, 2, 1)), 2, true, true, true},
		{"a newer one takes the place of what is taken back", turned(0, status(3, control.StateComplete, 3, 3)), 2, true, true, true},
		{"a newer one takes its place, and begins", status(3, control.StateRolling, 1, 1), 2, true, true, true},
		{"agents are being replaced", agents(4, 0, status(2, control.StateComplete, 2, 2)), 2, false, false, false},
		{"agents are replaced, the nodes not yet", agents(5, 0, status(2, control.StateRolling, 2, 1)), 2, false, false, false},
		{"agents are replaced", agents(5, 0, status(2, control.StateComplete, 2, 2)), 2, true, false, false},
		{"an agent was put back, and others go on", agents(3, 1, status(2, control.StateComplete, 2, 2)), 2, false, false, false},
		{"the last agent was put back", agents(4, 1, status(2, control.StateComplete, 2, 2)), 2, true, true, false},
		{"so many agents were put back that no other is tried", agents(0, 2, status(2, control.StateComplete, 2, 2)), 2, true, true, false},
		{"whatever there is", status(2, control.StateSpreading, 1, 1), 0, false, false, false},
		{"a newer one, and no node seen", status(2, control.StateSpreading), 1, false, false, false},
	} {
		done, err := finished(c.s, Goal{Release: c.release, Back: c.back})
		refusal, refused := errors.AsType[*control.Error](err)
		if done != c.done || refused != c.refused || (err != nil) != c.refused || (refused && c.s.Release.Version > 0 && refusal.Kind != control.KindRefused) {
			t.Errorf("%s: %v, %v", c.name, done, err)
		}
	}
}
