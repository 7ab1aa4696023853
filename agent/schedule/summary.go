package schedule

import (
	"fmt"
	"maps"
	"slices"

	"moult/gossip/view"
	"moult/store/bundle"
)

// States of a rollout, as status shows them.
const (
	RolloutSpreading = "spreading" // there is no order yet
	RolloutRolling   = "rolling"
	RolloutPaused    = "paused"
	RolloutHeld      = "held" // too many nodes of a class have failed
	RolloutAborted   = "aborted"
	RolloutComplete  = "complete" // every node that is not skipped has settled, and none is unwell
)

// Rollout sums up how far an order has come, as this agent sees it.
type Rollout struct {
	State   string
	Reason  string // why it does not go on; empty where it does
	Classes map[bundle.Class]Progress
}

// Progress counts the nodes of one class. Settled, Unwell, Down, Held, Waiting and
// Skipped add up to Total. Unwell are those at the release whose software is not
// well, or failed in its soak.
type Progress struct {
	Total, Settled, Unwell, Down, Held, Waiting, Skipped int
	// Budget is how many may be down at once.
	Budget int
}

// Summary sums up an order; nil for none. It is for people: it takes a node's
// word for whether it is down, however old that is.
func Summary(o *Order, lookup func(bundle.NodeID) (view.Record, bool)) Rollout {
	if o == nil {
		return Rollout{State: RolloutSpreading, Reason: "there is no rollout order for the release yet", Classes: map[bundle.Class]Progress{}}
	}
	r := Rollout{State: RolloutRolling, Classes: map[bundle.Class]Progress{}}
	complete, skipped, d := true, 0, decision{Input: Input{Lookup: lookup}, order: o}
	var unwell []bundle.NodeID
	for _, name := range slices.Sorted(maps.Keys(o.Classes)) {
		c := o.Classes[name]
		p, ill := progress(o, &c, lookup)
		unwell = append(unwell, ill...)
		r.Classes[name] = p
		complete = complete && p.Settled+p.Skipped == p.Total
		skipped += p.Skipped
		if failed := c.failed(o, lookup); c.FailureMax > 0 && len(failed) >= c.FailureMax && r.State == RolloutRolling {
			r.State = RolloutHeld
			r.Reason = fmt.Sprintf("class %s: %s %d has failed on %s", name, o.direction(), o.Release, d.names(failed))
		}
		if final := c.final(o, lookup); len(final) > 0 && r.State == RolloutRolling {
			r.State = RolloutHeld
			r.Reason = fmt.Sprintf("release %d was finalized by its own finalize_after before it was taken back, on %s; `%s` goes forward to it again", o.Release, d.names(final), undo(o.Release))
		}
	}
	switch {
	case complete && (skipped == 0 || o.State != StateAborted):
		r.State, r.Reason = RolloutComplete, ""
	case o.State == StateAborted:
		r.State, r.Reason = RolloutAborted, "the operator has aborted the rollout"
	case o.State == StatePaused:
		r.State, r.Reason = RolloutPaused, "the operator has paused the rollout"
	case r.State == RolloutRolling && len(unwell) > 0:
		where := "at the release"
		if o.Back() {
			where = "that have taken the release back"
		}
		r.Reason = fmt.Sprintf("nodes %s are not well: %s", where, d.names(unwell))
	}
	return r
}

// Reached reports whether each node that an order does not skip has said that it is
// where that leads. Unlike that a rollout is complete, which is for people, it never ceases
// to be so.
func Reached(o *Order, lookup func(bundle.NodeID) (view.Record, bool)) bool {
	for _, name := range slices.Sorted(maps.Keys(o.Classes)) {
		c := o.Classes[name]
		for _, m := range c.members() {
			rec, _ := lookup(m.id)
			passed := rec.Obeys > o.Release && rec.Stands() >= o.Release // its turns are of a later one
			if m.attempts > 0 && !o.Arrived(rec) && !passed {
				return false
			}
		}
	}
	return true
}

func progress(o *Order, c *ClassOrder, lookup func(bundle.NodeID) (view.Record, bool)) (p Progress, unwell []bundle.NodeID) {
	p.Budget = c.MaxUnavailable
	members := c.members()
	if !c.Bounds() {
		p.Budget = len(members)
	}
	for _, m := range members {
		p.Total++
		rec, _ := lookup(m.id)
		switch {
		case o.Arrived(rec) && m.attempts > 0 && !rec.Left && (rec.Health.Unwell() || hasFailed(o, m.attempts, rec)):
			p.Unwell++
			unwell = append(unwell, m.id)
		case o.Arrived(rec):
			p.Settled++
		case m.attempts == 0:
			p.Skipped++
		case rec.Phase.Down():
			p.Down++
		case hasFailed(o, m.attempts, rec) || (rec.Held && rec.Target == o.Release):
			p.Held++
		default:
			p.Waiting++
		}
	}
	return p, unwell
}
