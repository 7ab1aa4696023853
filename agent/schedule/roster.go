package schedule

import (
	"maps"
	"slices"

	"moult/gossip/view"
	"moult/store/bundle"
)

// place is one place in the ranked list of a class.
type place struct {
	node    bundle.NodeID
	rank    int
	attempt int // which attempt of the node it is for, from 1; 0 when skipped
	skipped bool
}

// ranked returns the places of a class in the order in which their nodes may
// go down: the roster, or under StrategyManual the started places. The list of
// a later serial begins with that of an earlier one, but for skips.
func (c *ClassOrder) ranked() []place {
	all := make([]place, len(c.Roster))
	skipped, seen := c.isSkipped(), make(map[bundle.NodeID]int, len(c.Roster))
	for i, id := range c.Roster {
		all[i] = place{node: id, rank: i, skipped: skipped[i]}
		if !skipped[i] {
			seen[id]++
			all[i].attempt = seen[id]
		}
	}
	if c.Strategy != bundle.StrategyManual {
		return all
	}
	started := make([]place, len(c.Started))
	for rank, i := range c.Started {
		started[rank] = all[i]
		started[rank].rank = rank
	}
	return started
}

// index is where in the roster a ranked place is.
func (c *ClassOrder) index(p place) int {
	if c.Strategy == bundle.StrategyManual {
		return c.Started[p.rank]
	}
	return p.rank
}

// names reports whether the roster names a node, skipped or not.
func (c *ClassOrder) names(id bundle.NodeID) bool { return slices.Contains(c.Roster, id) }

// places counts the places of a node, skipped or not.
func (c *ClassOrder) places(id bundle.NodeID) (n int) {
	for _, node := range c.Roster {
		if node == id {
			n++
		}
	}
	return n
}

// attempts counts the places of a node that are not skipped.
func (c *ClassOrder) attempts(id bundle.NodeID) int {
	skipped, n := c.isSkipped(), 0
	for i, node := range c.Roster {
		if node == id && !skipped[i] {
			n++
		}
	}
	return n
}

// Standing is how a node counts, beside what it says of itself. A node that is not
// StandingIn counts for nothing until it speaks again.
type Standing string

// The standings.
const (
	StandingIn      Standing = ""
	StandingLeft    Standing = "left"    // its agent has left the ring
	StandingSkipped Standing = "skipped" // the operator's word that it is gone
	StandingOutside Standing = "outside" // unreachable, and not named by the newest order
	// StandingStranger is that of a node that the operator has not enrolled.
	StandingStranger Standing = "not enrolled"
)

// Places is how many open places each node has that an order names, by class; 0 for one
// that it skips. It is for whoever asks of many nodes.
type Places map[bundle.Class]map[bundle.NodeID]int

// Places counts the places of all nodes; nil for no order.
func (o *Order) Places() Places {
	if o == nil {
		return nil
	}
	all := Places{}
	for _, class := range slices.Sorted(maps.Keys(o.Classes)) {
		c := o.Classes[class]
		all[class] = map[bundle.NodeID]int{}
		for _, m := range c.members() {
			all[class][m.id] = m.attempts
		}
	}
	return all
}

// Standing tells how a node counts under the newest order, whose places these are; nil
// for none.
func (p Places) Standing(r view.Record, reachable bool) Standing {
	open, named := p[r.Class][r.Node]
	switch {
	case r.Left:
		return StandingLeft
	case p == nil:
	case !named && !reachable:
		return StandingOutside
	case named && open == 0:
		return StandingSkipped
	}
	return StandingIn
}

// Names reports whether a class's roster names a node, skipped or not.
func (o *Order) Names(class bundle.Class, id bundle.NodeID) bool {
	c := o.Classes[class]
	return c.names(id)
}

// Attempts returns how many attempts at the release the order allows a node: a
// held node whose record counts fewer as ended may try again.
func (o *Order) Attempts(class bundle.Class, id bundle.NodeID) int {
	c := o.Classes[class]
	return c.attempts(id)
}

// failed returns the nodes whose every attempt has ended without settling, or whose
// software failed in the soak, in the order of their first places.
func (c *ClassOrder) failed(o *Order, lookup func(bundle.NodeID) (view.Record, bool)) []bundle.NodeID {
	var nodes []bundle.NodeID
	for _, m := range c.members() {
		if rec, ok := lookup(m.id); ok && m.attempts > 0 && hasFailed(o, m.attempts, rec) {
			nodes = append(nodes, m.id)
		}
	}
	return nodes
}

func hasFailed(o *Order, attempts int, rec view.Record) bool {
	release := o.Release
	if o.Turn > 0 && (o.Back() || !o.Arrived(rec)) { // what ended in earlier turns is over
		t := rec.Turned
		return !t.Done && t.Release == release && t.Turn == o.Turn && t.Ended >= attempts
	}
	if rec.Version >= release {
		return rec.Health.Failed.Release == release && rec.Health.Failed.Count >= attempts
	}
	return rec.Ended.Release == release && rec.Ended.Count >= attempts
}

// member is one node of a roster, with the attempts that it has; 0: skipped.
type member struct {
	id       bundle.NodeID
	attempts int
}

// members returns each node of the roster once, in the order of first places.
func (c *ClassOrder) members() []member {
	list := make([]member, 0, len(c.Roster))
	at, skipped := make(map[bundle.NodeID]int, len(c.Roster)), c.isSkipped()
	for i, id := range c.Roster {
		j, ok := at[id]
		if !ok {
			j = len(list)
			at[id] = j
			list = append(list, member{id: id})
		}
		if !skipped[i] {
			list[j].attempts++
		}
	}
	return list
}
