package schedule

import (
	"cmp"
	"fmt"

	"moult/gossip/view"
	"moult/store/bundle"
)

// MayRehearse says whether the node may run the release on a copy of its state now, which
// is load on a machine that serves. It heeds the operator as going down does, and no
// windows, canaries, or other classes: to know early is what it is for. And so that not
// all of a class do it at one moment, it goes by the order of first places: a node waits
// while as many of those before it that can be reached have yet to rehearse as may at once
// (see atOnce). That is pacing, and rests on no proof.
func MayRehearse(in Input) Decision {
	if in.Order == nil {
		return wait(CodeNoOrder, "there is no rollout order for the release yet", "moult inject BUNDLE")
	}
	d := decision{Input: in, rule: theRule(), order: in.Order, class: in.Order.Classes[in.Class]}
	own, known := in.Lookup(in.Self)
	if !known {
		return wait(CodeNoRecord, "this node has not published its status yet", "")
	}
	d.own = own
	if !d.Tally.Of(d.order) {
		d.Tally = d.rule.tally(d.order, d.Lookup)
	}
	d.counts = d.Tally.of(d.Class)
	for _, question := range []func() (Decision, bool){d.needed, d.trusted, d.allowed, d.mayTry, d.amongFew} {
		if answer, no := question(); no {
			return answer
		}
	}
	return Decision{Go: true, Reason: Reason{Code: CodeGo, Text: "it may rehearse"}}
}

// atOnce is how many nodes of the class may rehearse at once: a quarter of them, and as
// many as may be down at once, since to rehearse takes less of a node than that.
func (c *ClassOrder) atOnce(members int) int {
	return max(1, c.MaxUnavailable, (members+3)/4)
}

func (d *decision) amongFew() (Decision, bool) {
	if d.class.Strategy == bundle.StrategyAtOnce || d.Reachable == nil {
		return Decision{}, false
	}
	few, open := d.class.atOnce(len(d.counts.members)), d.yetToRehearse(d.counts.index[d.Self])
	if len(open) < few {
		return Decision{}, false
	}
	return Decision{Reason: Reason{
		Code: CodeTurn, Nodes: open, Command: cmp.Or(d.skip(open), "moult why "+d.name(open[0])),
		Text: fmt.Sprintf("it waits for its turn to rehearse: of class %s at most %d do at once, and before it come %s; `moult skip --release %d %s` goes on without that one",
			d.Class, few, d.names(open), d.order.Release, d.name(open[0])),
	}}, true
}

// yetToRehearse lists those of the first so many members that can be reached, and of which
// more is to be heard. Reachable is known.
func (d *decision) yetToRehearse(members int) (open []bundle.NodeID) {
	for m := range d.counts.unrehearsed.all(0, members) {
		if id := d.counts.members[m].id; id != d.Self && d.Reachable(id) {
			open = append(open, id)
		}
	}
	return open
}

// afterRehearsals makes a node that has rehearsed the release wait for what the others
// find: where it cannot take the data of one, nobody has been down for it. It waits for those
// that the ring takes for alive only, which is pacing: who cannot be reached says nothing for
// long, and costs what it costs without rehearsals.
func (d *decision) afterRehearsals() (Decision, bool) {
	release := d.order.Release
	if d.order.Back() || d.own.Rehearsed.Release != release || d.own.Rehearsed.Outcome != view.RehearsalOK || d.Reachable == nil {
		return Decision{}, false
	}
	open := d.yetToRehearse(len(d.counts.members))
	if len(open) == 0 {
		return Decision{}, false
	}
	return Decision{Reason: Reason{
		Code: CodeRehearsals, Nodes: open, Command: cmp.Or(d.skip(open), "moult why "+d.name(open[0])),
		Text: fmt.Sprintf("it waits for what rehearsals of the release find: %s (`moult skip --release %d %s` goes on without that one)", d.names(open), release, d.name(open[0])),
	}}, true
}

// saysNoMore reports whether a node's rehearsal of a release need not be waited for: it has
// rehearsed it, or has none to make on its way, or goes no further towards it. One that has
// failed, or could not make it, and has another attempt will say more.
func saysNoMore(rec view.Record, o *Order, attempts int) bool {
	release := o.Release
	switch {
	case rec.Left, o.Arrived(rec), rec.Obeys > release, rec.Reads < view.ReadsRehearsals, hasFailed(o, attempts, rec):
		return true
	case rec.Rehearsed.Release == release:
		return rec.Rehearsed.Outcome != view.RehearsalFailed && rec.Rehearsed.Outcome != view.RehearsalUnable
	}
	// Who has something to rehearse gets no further than that before.
	return rec.Rehearsed.Release > release || rec.Target == release && (rec.Phase == view.Waiting || rec.Phase.Down())
}
