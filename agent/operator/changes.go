package operator

import (
	"fmt"

	"moult/agent/control"
	"moult/agent/schedule"
	"moult/gossip/view"
	"moult/store/bundle"
)

// Pause is the change by `moult pause`.
func Pause() Change {
	return Change{Name: "pause", Apply: (*schedule.Order).Pause, Joins: true}
}

// Resume is the change by `moult resume`.
func Resume() Change { return Change{Name: "resume", Apply: (*schedule.Order).Resume} }

// Abort is the change by `moult abort`.
func Abort() Change { return Change{Name: "abort", Apply: (*schedule.Order).Abort} }

// nodeChange is a change that is about one node.
type nodeChange struct {
	apply  func(*schedule.Order, bundle.Class, bundle.NodeID) (*schedule.Order, error)
	newest bool // it has a node go down
	placed bool // and gives it a place
}

var nodeChanges = map[string]nodeChange{
	"skip":  {apply: (*schedule.Order).Skip},
	"retry": {(*schedule.Order).Retry, true, true},
	"start": {(*schedule.Order).Start, true, true},
	"now":   {(*schedule.Order).Now, true, false},
}

// ForNode is the change by `moult skip`, retry, start or now, about a node that a person calls
// so: by its name, or the beginning of its ID.
func ForNode(name string, n control.NodeStatus, called string) (Change, error) {
	c, ok := nodeChanges[name]
	switch {
	case !ok:
		return Change{}, control.Misuse(fmt.Errorf("there is no order %q about a node", name), "")
	case c.placed && n.Standing == string(schedule.StandingStranger):
		return Change{}, control.Refused(fmt.Errorf("%s %s: it is not enrolled, so it has no place in a rollout", name, called), "enrol it with `moult member add "+called+"`, if it is yours")
	}
	apply := c.apply
	if name == "retry" && n.Agent.Failed != 0 {
		apply = retryAgent(n)
	}
	return Change{Name: name, Newest: c.newest, Apply: func(o *schedule.Order) (*schedule.Order, error) { return apply(o, n.Class, n.ID) }}, nil
}

// retryAgent has a node whose agent was put back try that again, and go down again only where
// it is held, too.
func retryAgent(n control.NodeStatus) func(*schedule.Order, bundle.Class, bundle.NodeID) (*schedule.Order, error) {
	return func(o *schedule.Order, class bundle.Class, id bundle.NodeID) (*schedule.Order, error) {
		switch {
		case o.Agents == nil || o.Agents.Release != n.Agent.Failed: // of an earlier one
			return o.Retry(class, id)
		case n.Phase == string(view.Held):
			return o.RetryBoth(class, id)
		}
		return o.RetryAgent(id)
	}
}

// Agents is the change by which an order has agents replaced, too: by the one of its release,
// whose manifest is m.
func Agents(m *bundle.Manifest) Change {
	return Change{Name: "inject --agents", Newest: true, Apply: func(o *schedule.Order) (*schedule.Order, error) { return o.AllowAgents(m) }}
}

// checkAgents refuses what would do nothing, and what cannot be done.
func checkAgents(m *bundle.Manifest, agents bool) error {
	switch {
	case agents && m.Agent == nil:
		return control.Refused(fmt.Errorf("release %d brings no agent", m.Version), "inject it without --agents, or build it with an agent block")
	case !agents && m.Agent != nil && len(m.Classes) == 0:
		return control.Refused(fmt.Errorf("release %d brings an agent and changes no class: without --agents it would do nothing", m.Version), "`moult inject --agents BUNDLE` has agents replaced by it: see `moult plan`")
	}
	return nil
}
