package schedule

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"moult/gossip/view"
	"moult/store/bundle"
)

// FinalizeInput is what it rests on whether a node finalizes a release by the release's own word.
type FinalizeInput struct {
	Order *Order
	// Tally is of Order and of what is known of the nodes. Unreachable is how many of those that
	// the order does not skip cannot be reached: what they said last may be true no more.
	Tally       *Tally
	Unreachable int
	// Observed is what this node has observed before, perhaps before its agent started.
	Observed Observed
	// Last is when it last looked since its agent started, zero where the time did not run then;
	// Now is the time by the same clock.
	Last, Now time.Time
	// Synced, Expired and Conflict are as in Input. Pending is true while a newer order is signed
	// that has not arrived.
	Synced, Expired, Conflict, Pending bool
}

// Observed is for how long a node has known that all was as it must be, under one order of a
// release: it may not have heard of what was ordered, a pause say, before the next. Only time in
// which its agent looked counts: neither that in which none ran, nor what a clock was set by.
type Observed struct {
	Release bundle.Version  `json:"release"`
	Serial  uint64          `json:"serial"`
	For     bundle.Duration `json:"for"`
	// Seen is when it last was so. After more than finalizeLapse nobody knows what was meanwhile.
	Seen time.Time `json:"seen"`
}

// Finalizing is when a release is finalized by its own word.
type Finalizing struct {
	// Observed is what the node has observed by now; zero: the time begins anew. Counts is true
	// while the time runs.
	Observed Observed
	Counts   bool
	// At is when the time is over; zero: it does not run, or nobody may finalize the release then,
	// for the Reason given.
	At     time.Time
	Reason string
	// Now is true when the node may finalize the release.
	Now bool
}

// MayFinalize says when a node finalizes the release of an order by itself (FinalizeAfter): when
// all nodes that the order does not skip have said that they are at it, none that it is not well,
// or has failed, all can be reached, and this node has observed that for long enough.
func MayFinalize(in FinalizeInput) Finalizing {
	o := in.Order
	if reason := o.unfinal(); reason != "" {
		return Finalizing{Reason: reason}
	}
	f := Finalizing{Observed: in.Observed}
	if ago := in.Now.Round(0).Sub(in.Observed.Seen.Round(0)).Abs(); in.Observed.Release != o.Release || in.Observed.Serial != o.Serial || ago > finalizeLapse {
		f.Observed = Observed{Release: o.Release, Serial: o.Serial}
	}
	if !in.Synced { // what is known of others is of before its agent started
		f.Reason = "this agent has not heard from a peer since it started"
		return f
	}
	if reason := in.Tally.unfinal(); reason != "" {
		return Finalizing{Reason: reason}
	}
	if in.Unreachable > 0 {
		f.Reason = fmt.Sprintf("%d nodes cannot be reached", in.Unreachable)
		return f
	}
	if !in.Last.IsZero() {
		f.Observed.For += bundle.Duration(min(max(0, in.Now.Sub(in.Last)), finalizeStep))
	}
	f.Observed.Seen, f.Counts = in.Now, true
	switch left := o.FinalizeAfter - f.Observed.For; {
	case in.Expired:
		f.Reason = "the trust metadata have expired"
	case in.Conflict:
		f.Reason = "what is signed contradicts itself"
	case in.Pending:
		f.Reason = "a newer order of it is signed, and has not arrived"
	default:
		f.At, f.Now = in.Now.Add(max(0, time.Duration(left))), left <= 0
	}
	return f
}

// unfinal is why no agent finalizes the release by itself, whatever nodes say; "" where it does.
func (o *Order) unfinal() string {
	switch {
	case o.FinalizeAfter == 0:
		return "its release does not ask for it"
	case o.Finalized:
		return "the operator has finalized it"
	case o.Back():
		return "it is being taken back"
	case o.State != StateRunning:
		return "its rollout is " + o.State
	}
	return ""
}

// unfinal is why not, by what nodes say.
func (t *Tally) unfinal() string {
	behind, unwell := 0, 0
	for _, class := range slices.Sorted(maps.Keys(t.order.Classes)) {
		n := t.of(class)
		behind += n.elsewhere.n
		unwell += n.unwell.n + n.failed.n
	}
	switch {
	case behind > 0:
		return fmt.Sprintf("%d nodes have not said that they are at it", behind)
	case unwell > 0:
		return fmt.Sprintf("%d nodes are not well, or have failed", unwell)
	}
	return ""
}

// Unreachable counts the nodes that the order does not skip and that cannot be reached.
func (t *Tally) Unreachable(reachable func(bundle.NodeID) bool) (count int) {
	for _, class := range slices.Sorted(maps.Keys(t.order.Classes)) {
		for _, m := range t.of(class).members {
			if m.attempts > 0 && !reachable(m.id) {
				count++
			}
		}
	}
	return count
}

// FinalBy reports whether a node has begun to finalize the order's release by the release's own
// word. Where that has none, what a node says is nothing.
func (o *Order) FinalBy(rec view.Record) bool { return o.FinalizeAfter > 0 && rec.Final >= o.Release }

// notFinal keeps nodes at a release that others have finalized by its own word, though an order
// takes it back: they can never follow.
func (d *decision) notFinal() (Decision, bool) {
	if !d.order.Back() {
		return Decision{}, false
	}
	final := d.Tally.Final()
	if len(final) == 0 {
		return Decision{}, false
	}
	return Decision{Reason: Reason{
		Code: CodeFinal, Text: fmt.Sprintf("release %d was finalized by its own finalize_after before it was taken back: %s", d.order.Release, d.names(final)),
		Nodes: final, Command: undo(d.order.Release),
	}}, true
}

// undo is the command that goes forward to a release again.
func undo(release bundle.Version) string { return fmt.Sprintf("moult revert --undo %d", release) }

// Final lists the nodes in the order that have begun to finalize the release by its own word.
func (t *Tally) Final() (nodes []bundle.NodeID) {
	for _, class := range slices.Sorted(maps.Keys(t.order.Classes)) {
		n := t.of(class)
		for m := range n.final.all(0, len(n.members)) {
			nodes = append(nodes, n.members[m].id)
		}
	}
	return nodes
}

// final is Tally.Final for one class, of whoever asks once; none where the release is not taken back.
func (c *ClassOrder) final(o *Order, lookup func(bundle.NodeID) (view.Record, bool)) (nodes []bundle.NodeID) {
	if !o.Back() {
		return nil
	}
	for _, m := range c.members() {
		if rec, ok := lookup(m.id); ok && m.attempts > 0 && o.FinalBy(rec) {
			nodes = append(nodes, m.id)
		}
	}
	return nodes
}
