package report

import (
	"cmp"
	"fmt"

	"moult/agent/control"
	"moult/agent/upgrade"
	"moult/store/bundle"
)

// Kinds of a Condition.
const (
	KindHeld     = "held"     // this agent's node is
	KindStopped  = "stopped"  // the rollout is: State says how
	KindComplete = "complete" // the rollout is
	KindAlarm    = "alarm"
)

// Condition is something that holds now and that somebody may want to be told of.
type Condition struct {
	Kind string `json:"kind"`
	// Key tells conditions apart, and is the same for as long as one holds; Text may
	// change meanwhile.
	Key     string         `json:"key"`
	Release bundle.Version `json:"release,omitempty"`
	State   string         `json:"state,omitempty"` // of the release
	Text    string         `json:"text,omitempty"`
}

// Conditions are those that hold by a status without `live`.
func (p Peer) Conditions() (all []Condition) {
	s := p.Status(nil)
	if n := p.Node.State(); n.Phase == upgrade.Held {
		release := cmp.Or(n.Failed(), n.Goal)
		all = append(all, Condition{Kind: KindHeld, Key: fmt.Sprintf("held %d.%d", release, n.Ended(release)), Release: release, Text: n.Reason})
	}
	r := s.Release
	switch r.State {
	case control.StateHeld, control.StatePaused, control.StateAborted:
		all = append(all, Condition{Kind: KindStopped, Key: fmt.Sprintf("stopped %d.%d %s", r.Version, r.Turn, r.State), Release: r.Version, State: r.State, Text: r.Reason})
	case control.StateComplete:
		text := fmt.Sprintf("release %d is complete", r.Version)
		if r.Back() {
			text = fmt.Sprintf("release %d is taken back", r.Version)
		}
		all = append(all, Condition{Kind: KindComplete, Key: fmt.Sprintf("complete %d.%d", r.Version, r.Turn), Release: r.Version, State: r.State, Text: text})
	}
	for _, a := range append(p.Node.AlarmList(), p.alarms(&s)...) {
		all = append(all, Condition{Kind: KindAlarm, Key: "alarm " + a.Cause, Text: a.Text})
	}
	return all
}
