package schedule

import (
	"slices"

	"moult/gossip/view"
	"moult/store/bundle"
)

// Behind counts the nodes of a class that the order does not skip and that have not said that
// they are where it leads: as long as it falls, the rollout of the class gets on.
func (t *Tally) Behind(class bundle.Class) int { return t.of(class).elsewhere.n }

// Idles reports whether it is for the rollout of a class to get on now: it runs, and of those
// whose turn it is one waits for nothing that the order has it wait for. It looks at Class, Ask,
// Now and Zone alone. A window whose time zone is not known here counts as closed.
func (t *Tally) Idles(in Input) bool {
	n, c := t.of(in.Class), t.order.Classes[in.Class]
	if t.order.State != StateRunning {
		return false
	}
	turns := min(len(n.places), maxAsked) // of who goes by no order of turns, some will do
	if c.Bounds() {
		turns = min(turns, max(1, c.MaxUnavailable))
	}
	d := decision{Input: in, order: t.order, class: c}
	waits, asked := t.waits(in), 0
	for rank := range n.open.all(0, len(n.places)) {
		if asked++; asked > turns {
			break
		}
		p := n.places[rank]
		d.Self, d.now = p.node, slices.Contains(c.Now, c.index(p))
		if d.now || t.order.Back() || !waits && !d.keptBack(t.lookup) {
			return true
		}
	}
	return false
}

// waits reports whether the whole class waits: for others that settle first, or for a window.
func (t *Tally) waits(in Input) bool {
	c := t.order.Classes[in.Class]
	for _, first := range c.After {
		if t.of(first).unsettled.n > 0 {
			return true
		}
	}
	if len(c.Windows) == 0 {
		return false
	}
	open, _, _ := Open(c.Windows, in.Now, in.Zone)
	return !open
}

// keptBack reports whether a condition keeps the node; one that is down has gone, whatever its
// conditions say by now.
func (d *decision) keptBack(lookup func(bundle.NodeID) (view.Record, bool)) bool {
	if d.class.HoldIf == "" && d.class.When == "" {
		return false
	}
	if rec, _ := lookup(d.Self); rec.Phase.Down() || rec.Phase == view.Probing {
		return false
	}
	if d.class.HoldIf != "" {
		if said := d.ask(d.class.HoldIf); said.Answer == AnswerYes || said.Answer == AnswerUnread {
			return true
		}
	}
	return d.class.When != "" && d.ask(d.class.When).Answer != AnswerYes
}
