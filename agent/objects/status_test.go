package objects

import (
	"testing"
	"time"

	"moult/agent/control"
	"moult/simlayer/host"
	"moult/store/bundle"
)

func TestStatus(t *testing.T) {
	exec := Object{Callers: 1, To: 2, Release: 2, Past: true, What: bundle.Simulation{Kind: bundle.SimulateExec}}
	rules := Object{Callers: 3, To: 2, Release: 3, What: bundle.Simulation{Kind: bundle.SimulateRules}}
	for _, c := range []struct {
		name   string
		o      Object
		placed bool
		local  bool
		p      host.Stats
		want   control.ObjectStatus
	}{
		{"in the agent", rules, true, true, host.Stats{},
			control.ObjectStatus{Callers: 3, Calls: 2, Release: 3, Side: "future", Kind: "rules", Where: "agent", State: "running"}},
		{"its file is not here", exec, false, false, host.Stats{},
			control.ObjectStatus{Callers: 1, Calls: 2, Release: 2, Side: "past", Kind: "exec", Where: "process", State: "waiting", Problem: "its files are not here yet"}},
		{"in a process", exec, true, false, host.Stats{State: host.StateRunning, PID: 7, Oldest: time.Second},
			control.ObjectStatus{Callers: 1, Calls: 2, Release: 2, Side: "past", Kind: "exec", Where: "process", State: "running", PID: 7, Oldest: bundle.Duration(time.Second)}},
		{"its file is broken", exec, true, false, host.Stats{State: host.StateRunning, PID: 7, Problem: "no exports"},
			control.ObjectStatus{Callers: 1, Calls: 2, Release: 2, Side: "past", Kind: "exec", Where: "process", State: "broken", PID: 7, Problem: "no exports"}},
		{"it ended", exec, true, false, host.Stats{State: host.StateResting, Restarts: 2, Problem: "exit status 1"},
			control.ObjectStatus{Callers: 1, Calls: 2, Release: 2, Side: "past", Kind: "exec", Where: "process", State: "restarting", Restarts: 2, Problem: "exit status 1"}},
		{"it begins", exec, true, false, host.Stats{State: host.StateStarting},
			control.ObjectStatus{Callers: 1, Calls: 2, Release: 2, Side: "past", Kind: "exec", Where: "process", State: "starting"}},
		{"it begins again", exec, true, false, host.Stats{State: host.StateStarting, Restarts: 1},
			control.ObjectStatus{Callers: 1, Calls: 2, Release: 2, Side: "past", Kind: "exec", Where: "process", State: "restarting", Restarts: 1}},
		{"nobody needs it", exec, true, false, host.Stats{State: host.StateIdle},
			control.ObjectStatus{Callers: 1, Calls: 2, Release: 2, Side: "past", Kind: "exec", Where: "process", State: "idle"}},
		{"its state is being transformed", exec, true, true, host.Stats{},
			control.ObjectStatus{Callers: 1, Calls: 2, Release: 2, Side: "past", Kind: "exec", Where: "process", State: "idle", Problem: "the node is being upgraded"}},
	} {
		if got := statusOf(c.o, c.placed, c.local, c.p); got != c.want {
			t.Errorf("%s:\n%+v, want\n%+v", c.name, got, c.want)
		}
	}
}
