package node

import (
	"fmt"
	"strings"

	"moult/agent/schedule"
	"moult/agent/upgrade"
	"moult/store/bundle"
)

// How the reasons begin for which a node does not turn.
const (
	takenBackBut = "release %d is taken back, and cannot be here: "
	oldFolder    = "this data folder is older than what the node has said: "
)

// CannotTurn reports whether a record's reason says that the node cannot go where an order
// that turns leads.
func CannotTurn(reason string) bool {
	_, after, _ := strings.Cut(takenBackBut, "%d")
	return strings.Contains(reason, after) || strings.HasPrefix(reason, oldFolder)
}

// turn tells the machine at which turn the newest order is: whether its release is taken
// back, or gone forward to again.
func (n *Node) turn() {
	n.noTurn = ""
	o, s := n.newestOrder(), n.machine.State()
	if o == nil || o.Turn == 0 || !s.Served {
		return
	}
	if n.Conflicted(o.Release) || n.disowned(o.Release) {
		if o.Back() {
			n.noTurn = fmt.Sprintf(takenBackBut+"it is signed twice, with different contents; `moult inject BUNDLE` with the next release ends it", o.Release)
		}
		return
	}
	if o.State == schedule.StateAborted && !s.Turned.Before(o.Release, o.Turn) {
		return // its promise stands, and there is nothing more to do
	}
	e := upgrade.Turn{Release: o.Release, Turn: o.Turn}
	if o.Back() && s.Final >= o.Release {
		n.noTurn = fmt.Sprintf(takenBackBut+"it was finalized here before, by its own finalize_after; `moult revert --undo %d` goes forward to it again", o.Release, o.Release)
		return
	}
	if o.Back() && s.Running == o.Release {
		var why string
		if e.Before, why = n.before(n.cfg.Class, o.Release); why != "" {
			n.noTurn = fmt.Sprintf(takenBackBut+"%s", o.Release, why)
			return
		}
		e.Manifests = map[bundle.Version]bundle.Chunk{}
		if d := n.docs.known[e.Before]; !d.IsZero() {
			e.Manifests[e.Before] = bundle.Chunk{Digest: d, Length: n.means(e.Before).Length}
		}
	}
	n.step(e)
	n.forgotten(o)
}

// forgotten raises an alarm where the node has said that it took the release back, and runs
// it: its folder is older than that, and peers do not wait for it any more.
func (n *Node) forgotten(o *schedule.Order) {
	s := n.machine.State()
	if t := s.Turned; o.Back() && t.Release == o.Release && t.Turn == o.Turn && t.Done && s.Running == o.Release {
		n.noTurn = fmt.Sprintf(oldFolder+"it had taken release %d back, and runs it; `moult inject BUNDLE` with the next release brings all to one version", o.Release)
	}
}

// NoWayBack is why a release cannot be taken back in a class, as far as is known here; ""
// where it can, or does not change the class: see BackTo.
func (n *Node) NoWayBack(class bundle.Class, release bundle.Version) (why string) {
	if n.Conflicted(release) || n.disowned(release) {
		return "it is signed twice, with different contents"
	}
	if o := n.docs.orders[release]; n.machine.State().Final >= release || o != nil && n.final(o) {
		return "it is finalized"
	}
	if m := n.docs.manifests[release]; m != nil {
		if _, changes := m.Classes[class]; !changes {
			return ""
		}
	}
	_, why = n.before(class, release)
	return why
}

// BackTo is the release to whose software the nodes of a class would go back, 0 where none is
// known, and what speaks against it: an operator has taken it back itself, or aborted its
// rollout.
func (n *Node) BackTo(class bundle.Class, release bundle.Version) (to bundle.Version, doubt string) {
	to, _ = n.before(class, release)
	o, last := n.docs.orders[to], n.docs.orders[release]
	switch {
	case to == 0:
	case o != nil && o.Back(), last != nil && last.Previous == to && last.PreviousTurn%2 == 1:
		doubt = "was taken back itself"
	case o != nil && o.State == schedule.StateAborted:
		doubt = "was aborted"
	}
	return to, doubt
}

// before is the release whose software ran before this one in a class, or why there is no
// going back to it.
func (n *Node) before(class bundle.Class, release bundle.Version) (v bundle.Version, why string) {
	m := n.docs.manifests[release]
	if m == nil {
		return 0, "its manifest has not arrived"
	}
	switch cu := m.Classes[class]; {
	case cu.From == 0:
		return 0, fmt.Sprintf("it is the first of class %s", class)
	case cu.Transform.Reverse == nil:
		return 0, fmt.Sprintf("it has no reverse transform for class %s; the next release takes its place", class)
	}
	for v = release - 1; v > 0; v-- {
		before := n.docs.manifests[v]
		if before == nil {
			return 0, fmt.Sprintf("release %d, before it, has not arrived; %s", v, Bring(v))
		}
		if _, changes := before.Classes[class]; changes {
			return v, ""
		}
	}
	return 0, "no release is known whose software ran before it"
}

// finalize tells the machine that the release at which the node rests will not be taken back:
// by the word of its newest order, never because nothing else is heard.
func (n *Node) finalize() {
	o, s := n.newestOrder(), n.machine.State()
	text := ""
	if o != nil && (o.Finalized || s.Final >= o.Release) && s.Phase == upgrade.Current && s.Finalized < o.Release && n.trouble != "" {
		text = fmt.Sprintf("release %d is finalized, and its command fails here, and is tried again: %s", o.Release, n.trouble)
	}
	n.alarm(causeFinalized, text)
	if n.waits() {
		return
	}
	s = n.machine.State()
	final := o != nil && (o.Finalized || s.Final >= o.Release || n.finalizing.Now)
	if !final || n.abstains() || n.forked || n.OrderPending(o.Release) || n.Conflicted(o.Release) || n.disowned(o.Release) || n.docs.manifests[o.Release] == nil {
		return
	}
	if _, changes := n.docs.manifests[o.Release].Classes[n.cfg.Class]; !changes {
		return // nothing of it is here
	}
	if t := s.Turned; (o.Turn > 0 || t.Release == o.Release) && !(t.Release == o.Release && t.Turn == o.Turn && t.Done) {
		return // it has that turn before it, or a later one
	}
	n.step(upgrade.Finalize{Release: o.Release, Alone: !o.Finalized})
}

// observe finds out whether the time runs after which the newest release is finalized by its own
// word, and for how long it has: by this node's clock, and over restarts of its agent.
func (n *Node) observe() {
	o, s := n.newestOrder(), n.machine.State()
	if o == nil || o.FinalizeAfter == 0 || s.Final >= o.Release || !s.Served || n.doubtful || o.Release < n.observed.Release {
		n.finalizing = schedule.Finalizing{} // what was observed may be of an order that is not read yet
		return
	}
	in := schedule.FinalizeInput{
		Order: o, Tally: n.newest, Unreachable: n.unreachable(), Observed: n.observed, Now: n.now, Synced: n.synced && n.ringed, Expired: n.Expired(),
		Conflict: n.forked || n.Conflicted(o.Release) || n.disowned(o.Release), Pending: n.OrderPending(o.Release),
	}
	if n.finalizing.Counts {
		in.Last = n.observed.Seen
	}
	n.finalizing = n.cfg.Rules.MayFinalize(in)
	n.observed = n.finalizing.Observed
}

// unreachable is how many nodes of the newest order cannot be reached: counted anew only once
// others can, or it is of another order.
func (n *Node) unreachable() int {
	if n.unreached.of != n.newest {
		n.unreached.of, n.unreached.n = n.newest, n.newest.Unreachable(n.Alive)
	}
	return n.unreached.n
}

// observedToSave is what the node has observed where that is to be made durable, nil where it is
// not: when it begins anew, and now and then.
func (n *Node) observedToSave() *schedule.Observed {
	o, saved := n.observed, n.observedSaved
	anew := saved.For > 0 && (o.Release != saved.Release || o.Serial != saved.Serial || o.For < saved.For)
	if !anew && (o.For <= saved.For || o.For < saved.For+n.observedEvery()) {
		return nil
	}
	o.Seen = o.Seen.Round(0).UTC() // as it is read again
	return new(o)
}

// observedEvery is between two writes of it.
func (n *Node) observedEvery() bundle.Duration {
	if o := n.newestOrder(); o != nil && o.FinalizeAfter > 0 {
		return min(observedEvery, o.FinalizeAfter/8)
	}
	return observedEvery
}

// Finalizing is when the newest release is finalized here by its own word, as last looked for.
func (n *Node) Finalizing() schedule.Finalizing { return n.finalizing }

// final reports whether a release will not be taken back: by its order's word, or by its own, which
// any node in the order may have found out first.
func (n *Node) final(o *schedule.Order) bool {
	return o.Finalized || n.machine.State().Final >= o.Release || n.newest.Of(o) && len(n.newest.Final()) > 0
}

// mayGoBack reports whether a release may yet be taken back, by any class: its callers of
// the version before are answered until then, whoever calls.
func (n *Node) mayGoBack(v bundle.Version) bool {
	o, m := n.newestOrder(), n.docs.manifests[v]
	return o != nil && o.Release == v && m != nil && !n.final(o) && goesBack(m)
}

// goesBack reports whether any class of a release can go back.
func goesBack(m *bundle.Manifest) bool {
	for _, class := range sorted(m.Classes) {
		if m.Classes[class].Transform.Reverse != nil {
			return true
		}
	}
	return false
}
