package schedule

import (
	"fmt"
	"maps"
	"slices"

	"moult/gossip/view"
	"moult/store/bundle"
)

// Withdraw returns the successor that says of releases first to last that nothing they do
// to a class is ever done. No node may have been admitted at one of them, nor be later:
// the rollouts of all of them that have an order are aborted, and each node has said that
// it knows (see Obstacles). So no release is undone by this, and no state is lost.
func (o *Order) Withdraw(class bundle.Class, first, last bundle.Version) (*Order, error) {
	return o.amend(func(next *Order) error {
		if _, ok := o.Classes[class]; !ok {
			return fmt.Errorf("the rollout of release %d has no class %q", o.Release, class)
		}
		if w, ok := o.Withdrawn.Of(class, first); ok && last <= w.Last {
			return fmt.Errorf("releases %d to %d are withdrawn for class %s already", w.First, w.Last, class)
		}
		if o.State != StateAborted && first <= o.Release {
			return fmt.Errorf("the rollout of release %d is %s: abort it first", o.Release, o.State)
		}
		next.Withdrawn = o.Withdrawn.With(bundle.Withdrawal{Class: class, First: first, Last: last})
		return nil
	})
}

// Obstacle is a node for whose sake a release cannot be withdrawn, or not yet.
type Obstacle struct {
	Node bundle.NodeID
	// There says that it may have been admitted at the release: no time changes that.
	There bool
	// Outside says that the order does not name it, so that it cannot be skipped: it counts
	// while it can be reached.
	Outside bool
	Text    string
}

// Obstacles lists the nodes of a class of which it is not proven that they have not been
// admitted at release first or a later one, nor can be, where the rollouts of all these
// are aborted by metadata of this number or older. o is the newest order, and nodes are
// those that are known. Proof is what a node has said of itself, durably: that it is up on
// older software, and has such metadata, under which it goes down no more. That nothing is
// heard of a node proves nothing (promise P9). Nodes that the operator has skipped do not
// count.
func Obstacles(o *Order, class bundle.Class, first bundle.Version, number int64, nodes []view.Record, reachable func(bundle.NodeID) bool) (all []Obstacle) {
	known := map[bundle.NodeID]view.Record{}
	for _, r := range nodes {
		if r.Class == class {
			known[r.Node] = r
		}
	}
	places := o.Places()
	for id := range places[class] {
		if _, ok := known[id]; !ok {
			known[id] = view.Record{Node: id, Class: class}
		}
	}
	less := func(a, b bundle.NodeID) int { return slices.Compare(a[:], b[:]) }
	for _, id := range slices.SortedFunc(maps.Keys(known), less) {
		r := known[id]
		open, named := places[class][id]
		if named && open == 0 || !named && !reachable(id) {
			continue
		}
		add := func(there bool, format string, args ...any) {
			all = append(all, Obstacle{Node: id, There: there, Outside: !named, Text: fmt.Sprintf(format, args...)})
		}
		switch {
		case r.Phase == "":
			add(false, "nothing is known of it")
		case r.Running >= first || r.Version >= first:
			add(true, "it is, or was, at version %d, where callers were let in", max(r.Running, r.Version))
		case r.Phase.Down() || r.Phase == view.Probing || r.Running == 0 && r.Phase != view.Current && r.Phase != view.Held:
			add(false, "it is %s", r.Phase)
		case r.Trust.Timestamp < number:
			add(false, "it has not said yet that it has heard that the rollout is aborted")
		}
	}
	return all
}
