package operator

import (
	"fmt"

	"moult/agent/control"
	"moult/agent/schedule"
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
	return Change{Name: name, Newest: c.newest, Apply: func(o *schedule.Order) (*schedule.Order, error) { return c.apply(o, n.Class, n.ID) }}, nil
}
