package node

import (
	"fmt"
	"slices"

	"moult/agent/schedule"
	"moult/gossip/view"
	"moult/store/bundle"
)

// orderRead takes a rollout order that has arrived.
func (n *Node) orderRead(e OrderRead) {
	v := e.Release
	n.docs.here(e.Document)
	switch {
	case e.Kind == KindBound:
		if n.docs.orders[v] == nil && n.docs.bound[v] == e.Digest {
			n.docs.orders[v], n.skips = e.Order, nil
			n.docs.noteJoined()
			n.noteAllDone(v)
		}
	case n.meta.Orders[v].Digest == e.Digest:
		n.docs.arrived[e.Digest] = e.Order
	}
	n.takeOrders()
}

// takeOrders brings the orders that have arrived into force, those that may. It is
// called whenever one has arrived or others are named; each alarm is told anew.
func (n *Node) takeOrders() {
	kept := map[bundle.Digest]*schedule.Order{}
	for _, v := range sorted(n.meta.Orders) { // rising: each is compared with the one before
		ref := n.meta.Orders[v]
		o := n.docs.arrived[ref.Digest]
		if o == nil || (n.docs.orders[v] == nil && !n.docs.bound[v].IsZero() && n.docs.bound[v] != ref.Digest) {
			if o != nil {
				kept[ref.Digest] = o // the one that is bound is read first
			}
			continue
		}
		if next, read := n.follower(n.meta, v); next != 0 && read == nil && o.Turn > n.turnOf(v) {
			kept[ref.Digest] = o // the next release's order may say that this one turns no more
			continue
		}
		if err := n.JudgeOrder(n.meta, v, o, ref.Digest); err != nil {
			n.alarm(causeOrder(v), err.Error())
			kept[ref.Digest] = o
			continue
		}
		n.alarm(causeOrder(v), "")
		if n.docs.bound[v] != ref.Digest {
			n.docs.bound[v] = ref.Digest
			n.unsaved.bind(v, ref.Digest)
		}
		first := n.docs.orders[v] == nil
		n.docs.orders[v], n.skips = o, nil
		if first {
			n.noteAllDone(v)
		}
	}
	n.docs.arrived = kept
	n.docs.noteJoined()
	n.forget()
	n.strike()
}

// noteJoined notes what the node says of orders that were joined.
func (d *documents) noteJoined() {
	d.joined = bundle.Digest{}
	for _, v := range sorted(d.orders) {
		if o := d.orders[v]; o.Joined != nil && o.Joined.Open {
			d.joined = d.bound[v]
		}
	}
}

// forget drops the records that the newest order forgets. Where it forgets what this
// node has said, the node is here all the same, and says so anew.
func (n *Node) forget() {
	upTo := map[bundle.NodeID]uint64{}
	if o := n.newestOrder(); o != nil {
		for _, f := range o.Forgotten {
			upTo[f.Node] = f.UpTo
		}
	}
	for _, id := range n.view.Forget(upTo) {
		n.gone(id)
	}
	if last := upTo[n.cfg.Self]; last > 0 && last >= n.number {
		n.number, n.own = last, view.Record{}
	}
}

// gone notes that a node is no longer in the view.
func (n *Node) gone(id bundle.NodeID) {
	delete(n.numbers, id)
	delete(n.clocks, id)
	n.dropped = append(n.dropped, id)
	n.heard(id)
	delete(n.sources, id)
	delete(n.belonging.strangers, id)
	n.routing.stale, n.listed = true, false
}

// JudgeOrder reports why the order that m names for a release must not come into
// force. The proof that the budget holds rests on orders that form one line (package
// schedule), so each peer that sees both ends of a step of that line checks it.
func (n *Node) JudgeOrder(m Metadata, v bundle.Version, o *schedule.Order, digest bundle.Digest) error {
	if o.Release != v {
		return fmt.Errorf("the rollout order signed for release %d says that it is for release %d: sign it again", v, o.Release)
	}
	if n.docs.bound[v] == digest {
		return nil // judged before
	}
	if want := m.Releases[v].Digest; o.Manifest != want {
		return fmt.Errorf("rollout order %d of release %d is refused: it is for manifest %s, and that of the release is %s: publish the next release, and sign an order for that",
			o.Serial, v, o.Manifest.Short(), want.Short())
	}
	if w, next := n.follower(m, v); w != 0 && o.Turn > n.turnOf(v) {
		if next == nil {
			return fmt.Errorf("rollout order %d of release %d is refused: it takes the release back, or goes forward to it again, and the order of release %d, which may say that it does no more, has not arrived: try again in a moment, or at another agent", o.Serial, v, w)
		}
		if o.Turn > next.PreviousTurn {
			return fmt.Errorf("rollout order %d of release %d is refused: it takes the release back, or goes forward to it again, and the order of release %d says that it does no more: publish the next release, and inject it", o.Serial, v, w)
		}
	}
	old := n.docs.orders[v]
	if old == nil {
		return n.judgeFirst(m, o)
	}
	if old.Serial == o.Serial {
		return fmt.Errorf("two rollout orders of release %d have serial %d: %s is in force here and %s is refused: `moult pause --release %d`, with the trust folder that signed either, at an agent that has the other, joins them",
			v, o.Serial, n.docs.bound[v].Short(), digest.Short(), v)
	}
	err := n.cfg.Rules.Successor(old, o)
	if err != nil && o.Joins(n.docs.bound[v]) {
		err = schedule.JoinSuccessor(old, o)
	}
	if err != nil {
		return fmt.Errorf("rollout order %d of release %d is refused, order %d stays in force: %w", o.Serial, v, old.Serial, err)
	}
	return nil
}

// judgeFirst checks the first order of a release that this peer sees against the
// order of the release before.
func (n *Node) judgeFirst(m Metadata, o *schedule.Order) error {
	want := greatestBelow(sorted(m.Orders), o.Release)
	if o.Previous != want {
		return fmt.Errorf("rollout order %d of release %d is refused: it says that it comes after the order of release %d, and the one before is that of release %d; publish the next release, and inject it with the newest metadata",
			o.Serial, o.Release, o.Previous, want)
	}
	previous := n.docs.orders[want]
	if want == 0 || previous == nil {
		return nil // nothing here to compare it with
	}
	if w, lacks := o.Withdrawn.Lacks(previous.Withdrawn); lacks {
		mend := fmt.Sprintf("`moult pause --release %d`, say", o.Release)
		if w.First <= o.Release && o.Release <= w.Last {
			mend = fmt.Sprintf("`moult abort --release %d`, since it is one of them", o.Release)
		}
		return fmt.Errorf("rollout order %d of release %d is refused: it does not say that releases %d to %d are withdrawn for class %s, as that of release %d does; the next change of it (%s) says so",
			o.Serial, o.Release, w.First, w.Last, w.Class, want, mend)
	}
	if err := schedule.Follows(previous, o); err != nil {
		mend := "`moult retry` with each node that it leaves out mends it"
		if o.PreviousTurn < previous.Turn {
			mend = "publish the next release, and inject it" // no change of it says another turn
		}
		return fmt.Errorf("rollout order %d of release %d is refused; %s: %w", o.Serial, o.Release, mend, err)
	}
	return nil
}

// turnOf is the turn of the order in force of a release; 0 where there is none.
func (n *Node) turnOf(v bundle.Version) int {
	if o := n.docs.orders[v]; o != nil {
		return o.Turn
	}
	return 0
}

// follower is the release of the next order that m names after that of a release, 0 for
// none, and that order; nil where it has not arrived.
func (n *Node) follower(m Metadata, v bundle.Version) (w bundle.Version, o *schedule.Order) {
	vs := sorted(m.Orders)
	if i, _ := slices.BinarySearch(vs, v+1); i < len(vs) {
		w = vs[i]
	}
	if o = n.docs.orders[w]; o == nil {
		o = n.docs.arrived[m.Orders[w].Digest]
	}
	return w, o
}

// greatestBelow returns the greatest of some rising versions that is below v, 0 for
// none.
func greatestBelow(vs []bundle.Version, v bundle.Version) bundle.Version {
	i, _ := slices.BinarySearch(vs, v)
	if i == 0 {
		return 0
	}
	return vs[i-1]
}

// OrderPending reports that the metadata in force name another order for a release
// than the one at hand: the newer one binds, so nothing may be done by the older one
// until that is here. Nor by one that has turned, where that of the next release does not
// say so, or has not arrived: who goes by that does not wait for those that turn.
func (n *Node) OrderPending(v bundle.Version) bool {
	ref, ok := n.meta.Orders[v]
	if !ok {
		return false
	}
	if n.docs.orders[v] == nil || n.docs.bound[v] != ref.Digest {
		return true
	}
	w, next := n.follower(n.meta, v)
	return w != 0 && n.turnOf(v) > 0 && (next == nil || n.turnOf(v) > next.PreviousTurn)
}
